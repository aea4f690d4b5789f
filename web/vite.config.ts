import { defineConfig } from "vitest/config";

// The server serves the page with cross-origin isolation, so that WASM may use threads; so must the development server.
const isolation = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

export default defineConfig({
  base: "./", // the app may be mounted under any path
  build: {
    outDir: "../src/anymask/server/page",
    emptyOutDir: true,
    target: "es2022",
    chunkSizeWarningLimit: 1000,
  },
  worker: { format: "es" },
  // onnxruntime comes without its WASM inside: the worker names the two files itself.
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser", "development|production"] },
  // `npm run dev` beside a running `anymask annotate`.
  server: { headers: isolation, proxy: { "/api": process.env.ANYMASK_SERVER ?? "http://127.0.0.1:8000" } },
  test: { include: ["test/**/*.test.ts"], testTimeout: 30000 },
});
