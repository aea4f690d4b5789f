// The decoder's graphs in onnxruntime's WASM, and the embeddings that it reads. Runs inside the worker.

import * as ort from "onnxruntime-web/wasm";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import glueUrl from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import { logitsToMask, type Frame, type Logits, type SizeHW } from "../core/frame";
import { graphPrompt, type Prompt } from "../core/prompt";
import { readSafetensors } from "../core/safetensors";
import type { Engine, EngineImage, Output } from "./chain";

interface LoadedImage extends EngineImage {
  /** What the preparation made of its embedding. */
  readonly feeds: Readonly<Record<string, ort.Tensor>>;
  readonly noMask: ort.Tensor;
}

// A browser makes WASM quick only by and by ("measured" in Chromium: 110 ms the second run, 50 after ten, 35 after 25).
const WARMING_RUNS = 30;
const WARMING_MS = 2000;
const WARMING_PAUSE_MS = 20; // in which a click comes first, and ends it

const KEPT_IMAGES = 3; // the present one, the one before and the one after

export class WasmEngine implements Engine {
  private readonly images = new Map<number, Promise<LoadedImage>>();

  private isWarm = false;
  private isAsked = false;

  private constructor(
    private readonly preparation: ort.InferenceSession,
    private readonly prompts: ort.InferenceSession,
    private readonly fetchEmbedding: (imageId: number) => Promise<ArrayBuffer>,
  ) {}

  /** Throws where WASM with SIMD cannot run or a graph is not understood. */
  static async create(
    graphs: { preparation: ArrayBuffer; prompts: ArrayBuffer },
    threads: number,
    fetchEmbedding: (imageId: number) => Promise<ArrayBuffer>,
  ): Promise<WasmEngine> {
    ort.env.wasm.wasmPaths = { wasm: new URL(wasmUrl, import.meta.url).href, mjs: new URL(glueUrl, import.meta.url).href };
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    const options: ort.InferenceSession.SessionOptions = { executionProviders: ["wasm"], graphOptimizationLevel: "all", logSeverityLevel: 3 };
    const preparation = await ort.InferenceSession.create(graphs.preparation, options);
    return new WasmEngine(preparation, await ort.InferenceSession.create(graphs.prompts, options), fetchEmbedding);
  }

  image(id: number): Promise<LoadedImage> {
    const known = this.images.get(id);
    this.images.delete(id);
    const image = known ?? this.load(id);
    this.images.set(id, image);
    if (!known) image.catch(() => this.images.delete(id));
    for (const oldest of this.images.keys()) {
      if (this.images.size <= KEPT_IMAGES) break;
      this.images.delete(oldest);
    }
    return image;
  }

  private async load(id: number): Promise<LoadedImage> {
    const { tensors, metadata } = readSafetensors(await this.fetchEmbedding(id));
    const maps: Record<string, ort.Tensor> = {};
    for (const [name, { values, shape }] of Object.entries(tensors)) maps[name] = new ort.Tensor("float32", values, shape);
    const known = { ...maps, ...(await this.preparation.run(maps)) };
    const asked = this.prompts.inputNames.filter((name) => name in known);
    const feeds = Object.fromEntries(asked.map((name) => [name, known[name]]));
    const [h, w] = tensors.embedding.shape.slice(-2).map((cells) => 4 * cells);
    const size = (name: string) => metadata[name].split(",").map(Number) as unknown as SizeHW;
    const frame: Frame = { original_hw: size("original_hw"), resized_hw: size("resized_hw"), padded_hw: size("padded_hw") };
    const noMask = new ort.Tensor("float32", new Float32Array(h * w), [1, 1, h, w]);
    const image: LoadedImage = { id, frame, logits_hw: [h, w], feeds, noMask };
    if (!this.isWarm) await this.warmUp(image);
    return image;
  }

  /** The first run of all takes several times as long: nobody shall wait for it. Others follow until somebody asks. */
  private async warmUp(image: LoadedImage): Promise<void> {
    this.isWarm = true;
    const run = () => this.run(image, { points: [[1, 1]], labels: [1], box: null }, null);
    await run();
    const begun = performance.now();
    const goOn = async () => {
      for (let left = WARMING_RUNS; left > 0 && performance.now() - begun < WARMING_MS; left--) {
        await new Promise((resolve) => setTimeout(resolve, WARMING_PAUSE_MS));
        if (this.isAsked) return;
        await run();
      }
    };
    void goOn().catch(() => {}); // a click that fails says why
  }

  async decode(image: EngineImage, prompt: Prompt, maskLogits: Logits | null, ambiguous: boolean): Promise<Output[]> {
    this.isAsked = true;
    const { frame, logits_hw: [h, w] } = image as LoadedImage;
    const answer = await this.run(image as LoadedImage, prompt, maskLogits);
    const all = answer.logits.data as Float32Array;
    const scores = answer.ious.data as Float32Array;
    const outputs: Output[] = [];
    for (let token = ambiguous ? 1 : 0; token < scores.length; token++) {
      const logits: Logits = { h, w, values: all.slice(token * h * w, (token + 1) * h * w) };
      outputs.push({ token, score: scores[token], logits, mask: () => logitsToMask(logits, frame) });
    }
    return outputs;
  }

  private run({ feeds, noMask, frame, logits_hw: [h, w] }: LoadedImage, prompt: Prompt, maskLogits: Logits | null): Promise<ort.InferenceSession.ReturnType> {
    const { points, labels } = graphPrompt(prompt, frame);
    return this.prompts.run({
      ...feeds,
      points_xy: new ort.Tensor("float32", points, [1, labels.length, 2]),
      labels: new ort.Tensor("int32", labels, [1, labels.length]),
      mask_input: maskLogits ? new ort.Tensor("float32", maskLogits.values, [1, 1, h, w]) : noMask,
      has_mask: new ort.Tensor("float32", Float32Array.of(maskLogits ? 1 : 0), [1]),
    });
  }
}
