// The decoder's graphs in onnxruntime's WASM, and the embeddings that it reads. Runs inside the worker.

import * as ort from "onnxruntime-web/wasm";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import glueUrl from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import { logitsToMask, type Frame, type Logits, type SizeHW } from "../core/frame";
import type { Mask } from "../core/mask";
import { graphPrompt, type Prompt } from "../core/prompt";
import { readSafetensors } from "../core/safetensors";
import type { Engine, EngineImage, Output } from "./chain";

interface LoadedImage extends EngineImage {
  /** What the preparation made of its embedding. */
  readonly feeds: Readonly<Record<string, ort.Tensor>>;
  readonly noMask: ort.Tensor;
}

const KEPT_IMAGES = 3; // the present one, the one before and the one after

export class WasmEngine implements Engine {
  private readonly images = new Map<number, Promise<LoadedImage>>();

  private isWarm = false;

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
    // The first run of all takes several times as long: nobody shall wait for it.
    if (!this.isWarm) await this.decode(image, { points: [[1, 1]], labels: [1], box: null }, null, true);
    this.isWarm = true;
    return image;
  }

  async decode(image: EngineImage, prompt: Prompt, maskLogits: Logits | null, ambiguous: boolean): Promise<Output[]> {
    const { feeds, noMask, frame, logits_hw: [h, w] } = image as LoadedImage;
    const { points, labels } = graphPrompt(prompt, frame);
    const answer = await this.prompts.run({
      ...feeds,
      points_xy: new ort.Tensor("float32", points, [1, labels.length, 2]),
      labels: new ort.Tensor("int32", labels, [1, labels.length]),
      mask_input: maskLogits ? new ort.Tensor("float32", maskLogits.values, [1, 1, h, w]) : noMask,
      has_mask: new ort.Tensor("float32", Float32Array.of(maskLogits ? 1 : 0), [1]),
    });
    const all = answer.logits.data as Float32Array;
    const scores = answer.ious.data as Float32Array;
    const outputs: Output[] = [];
    for (let token = ambiguous ? 1 : 0; token < scores.length; token++) {
      const logits: Logits = { h, w, values: all.slice(token * h * w, (token + 1) * h * w) };
      let mask: Mask | null = null;
      outputs.push({ token, score: scores[token], logits, mask: () => (mask ??= logitsToMask(logits, frame)) });
    }
    return outputs;
  }
}
