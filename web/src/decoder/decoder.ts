// Who decodes: the worker in this page, or the server where WASM cannot run. The page asks here and need not know.

import type { Api, ServerSession } from "../api";
import { encodeRle } from "../core/mask";
import { Chain, chosenOutput, type ChainRequest, type Output } from "./chain";
import type { Candidate, Drawable, FromWorker, ToWorker } from "./messages";
import { ServerEngine } from "./server";

export type Mode = "starting" | "page" | "server";

interface Waiting {
  onBest: (best: Drawable) => void;
  onRest: (candidates: Candidate[]) => void;
  onProblem: (reason: string) => void;
}

export class Decoder {
  mode: Mode = "starting";
  /** Why the server decodes. */
  reason = "";
  readonly threads = threadCount();
  /** How long the latest answers took in the worker, in milliseconds. */
  latestMs = 0;
  onMode: () => void = () => {};
  /** In what steps outlines are drawn at present. */
  outlineStep: () => number = () => 1;

  private worker: Worker | null = null;
  private readonly chain: Chain;
  private readonly server: ServerEngine;
  private calls = 0;
  private readonly waiting = new Map<number, Waiting>();
  private readonly loading = new Map<number, { resolve: () => void; reject: (error: Error) => void }[]>();
  private readonly started: Promise<void>;
  private setStarted: () => void = () => {};

  constructor(
    private readonly api: Api,
    session: ServerSession,
  ) {
    this.server = new ServerEngine(api, session.model.stride);
    this.chain = new Chain(this.server);
    this.started = new Promise((resolve) => (this.setStarted = resolve));
    const isForced = new URLSearchParams(location.search).get("decode") === "server";
    if (!session.decoder.available) this.useServer(session.decoder.reason ?? "this model has no decoder for browsers");
    else if (isForced) this.useServer("the address says so");
    else if (typeof WebAssembly === "undefined") this.useServer("this browser has no WebAssembly");
    else this.startWorker(session.decoder);
  }

  private startWorker({ preparation_url, prompts_url }: ServerSession["decoder"]): void {
    this.worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "decoder" });
    this.worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.take(data);
    this.worker.onerror = (event) => this.useServer(event.message || "the worker does not start");
    const [preparationUrl, promptsUrl] = [preparation_url, prompts_url].map((url) => new URL(url, document.baseURI).href);
    this.post({ type: "start", preparationUrl, promptsUrl, imagesUrl: this.api.url("images"), headers: this.api.headers, threads: this.threads });
  }

  private useServer(reason: string): void {
    if (this.mode === "server") return;
    this.mode = "server";
    this.reason = reason;
    this.worker?.terminate();
    this.worker = null;
    for (const { onProblem } of this.waiting.values()) onProblem("the page cannot decode");
    this.waiting.clear();
    for (const waiters of this.loading.values()) for (const { resolve } of waiters) resolve();
    this.loading.clear();
    this.setStarted();
    this.onMode();
  }

  private post(message: ToWorker): void {
    this.worker?.postMessage(message);
  }

  private take(message: FromWorker): void {
    if (message.type === "started") {
      this.mode = "page";
      this.setStarted();
      this.onMode();
    } else if (message.type === "failed") this.useServer(message.reason);
    else if (message.type === "loaded") {
      for (const { resolve, reject } of this.loading.get(message.imageId) ?? []) {
        if (message.problem === null) resolve();
        else reject(new Error(message.problem));
      }
      this.loading.delete(message.imageId);
    } else {
      const waiting = this.waiting.get(message.call);
      if (!waiting) return;
      if (message.type === "best") {
        this.latestMs = message.ms;
        waiting.onBest(message.best);
      } else {
        this.waiting.delete(message.call);
        if (message.type === "rest") waiting.onRest(message.candidates);
        else waiting.onProblem(message.reason);
      }
    }
  }

  /** Resolves when clicks on the image can be answered at once. */
  async load(imageId: number): Promise<void> {
    await this.started;
    if (this.mode === "server") {
      await this.server.image(imageId);
      return;
    }
    await new Promise<void>((resolve, reject) => {
      this.loading.set(imageId, [...(this.loading.get(imageId) ?? []), { resolve, reject }]);
      this.post({ type: "load", imageId });
    });
  }

  /**
   * The answer to a chain of steps: the chosen candidate first, all of them a moment later.
   *
   * Until the worker has started the server answers, so that nobody waits for WASM to be compiled.
   */
  async decode(request: ChainRequest, onBest: (best: Drawable) => void, onRest: (candidates: Candidate[]) => void): Promise<void> {
    if (this.mode !== "page") {
      const begun = performance.now();
      const outputs = await this.chain.decode(request);
      this.latestMs = performance.now() - begun;
      onBest(candidate(chosenOutput(outputs, request.steps[request.steps.length - 1].token)));
      onRest(outputs.map(candidate));
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const onProblem = (reason: string) => reject(new Error(reason));
      const finish = (candidates: Candidate[]) => {
        onRest(candidates);
        resolve();
      };
      this.waiting.set(++this.calls, { onBest, onRest: finish, onProblem });
      this.post({ type: "decode", call: this.calls, request, onlyBest: false, outlineStep: this.outlineStep() });
    });
  }

  /** What a click would give, the best candidate alone. */
  async preview(request: ChainRequest): Promise<Drawable> {
    if (this.mode !== "page") return candidate(chosenOutput(await this.chain.decode(request), -1));
    return new Promise((resolve, reject) => {
      const call = ++this.calls;
      const onBest = (best: Drawable) => {
        this.waiting.delete(call);
        resolve(best);
      };
      this.waiting.set(call, { onBest, onRest: () => {}, onProblem: (reason) => reject(new Error(reason)) });
      this.post({ type: "decode", call, request, onlyBest: true, outlineStep: this.outlineStep() });
    });
  }
}

/**
 * As many as there are cores: on two cores a ViT decoder answers in 280 ms with two and in 370 ms with one, tiny in 35 and 49 ms
 * ("measured"). More than four wait for each other longer than they save ("assumed").
 * `?threads=` in the address says otherwise, for measuring.
 */
function threadCount(): number {
  const asked = Number(new URLSearchParams(location.search).get("threads"));
  return crossOriginIsolated ? Math.max(1, Math.min(asked || navigator.hardwareConcurrency, 4)) : 1;
}

function candidate(output: Output): Candidate {
  const mask = output.mask();
  return { token: output.token, score: output.score, mask, rle: encodeRle(mask) };
}
