// The worker that decodes, so that the page never stalls.

import { encodeRle, type Mask } from "../core/mask";
import { outlines } from "../core/outline";
import { fetchReady } from "../fetch";
import { Chain, chosenOutput, type Output } from "./chain";
import type { Candidate, FromWorker, ToWorker } from "./messages";
import { WasmEngine } from "./wasm";

let chain: Chain | null = null;
let engine: WasmEngine | null = null;

/** `masks` that the message holds are handed over, not copied: the worker has them no more. */
const post = (message: FromWorker, masks: readonly Mask[] = []) => self.postMessage(message, { transfer: masks.map(({ bits }) => bits.buffer) });
const reasonOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

/** Masks that were drawn before others: a preview's is asked for again by the click. */
const drawn = new WeakMap<Output, Mask>();

function drawnMask(output: Output): Mask {
  let mask = drawn.get(output);
  if (!mask) drawn.set(output, (mask = output.mask()));
  return { ...mask, bits: mask.bits.slice() };
}

function candidate(output: Output): Candidate {
  const mask = drawn.has(output) ? drawnMask(output) : output.mask();
  return { token: output.token, score: output.score, mask, rle: encodeRle(mask) };
}

self.onmessage = async ({ data }: MessageEvent<ToWorker>) => {
  if (data.type === "start") await start(data);
  else if (data.type === "load") await load(data.imageId);
  else await decode(data);
};

async function start({ preparationUrl, promptsUrl, imagesUrl, headers, threads }: ToWorker & { type: "start" }): Promise<void> {
  try {
    const bytes = async (url: string) => (await fetchReady(url, { headers })).arrayBuffer();
    const graphs = { preparation: await bytes(preparationUrl), prompts: await bytes(promptsUrl) };
    engine = await WasmEngine.create(graphs, threads, (id) => bytes(`${imagesUrl}/${id}/embedding`));
    chain = new Chain(engine);
    post({ type: "started" });
  } catch (error) {
    post({ type: "failed", reason: reasonOf(error) });
  }
}

async function load(imageId: number): Promise<void> {
  try {
    await engine!.image(imageId);
    post({ type: "loaded", imageId, problem: null });
  } catch (error) {
    post({ type: "loaded", imageId, problem: reasonOf(error) });
  }
}

async function decode({ call, request, onlyBest, outlineStep: step }: ToWorker & { type: "decode" }): Promise<void> {
  try {
    const begun = performance.now();
    const outputs = await chain!.decode(request);
    const best = chosenOutput(outputs, request.steps[request.steps.length - 1].token);
    const mask = drawnMask(best);
    // Traced here, where the mask lies in the cache: in the page it takes several times as long ("measured": 5 of a click's 50 ms).
    const outline = { step, lines: outlines(mask, step) };
    const { token, score } = best;
    post({ type: "best", call, best: { token, score, mask, outline }, ms: performance.now() - begun }, [mask]);
    if (onlyBest) return;
    const candidates = outputs.map(candidate);
    post({ type: "rest", call, candidates }, candidates.map(({ mask }) => mask));
  } catch (error) {
    post({ type: "problem", call, reason: reasonOf(error) });
  }
}
