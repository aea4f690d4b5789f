// The worker that decodes, so that the page never stalls.

import { encodeRle } from "../core/mask";
import { fetchReady } from "../fetch";
import { Chain, chosenOutput, type Output } from "./chain";
import type { Candidate, FromWorker, ToWorker } from "./messages";
import { WasmEngine } from "./wasm";

let chain: Chain | null = null;
let engine: WasmEngine | null = null;

const post = (message: FromWorker) => self.postMessage(message);
const reasonOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

function candidate(output: Output): Candidate {
  const mask = output.mask();
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

async function decode({ call, request, onlyBest }: ToWorker & { type: "decode" }): Promise<void> {
  try {
    const begun = performance.now();
    const outputs = await chain!.decode(request);
    const best = chosenOutput(outputs, request.steps[request.steps.length - 1].token);
    post({ type: "best", call, best: { token: best.token, score: best.score, mask: best.mask() }, ms: performance.now() - begun });
    if (!onlyBest) post({ type: "rest", call, candidates: outputs.map(candidate) });
  } catch (error) {
    post({ type: "problem", call, reason: reasonOf(error) });
  }
}
