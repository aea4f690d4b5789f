// The server as the decoder, for browsers where WASM cannot run: the same chain, one call a step.

import type { Api } from "../api";
import type { Logits } from "../core/frame";
import { decodeRle } from "../core/mask";
import type { Prompt } from "../core/prompt";
import { floatsToHalves, halvesToFloats } from "../core/safetensors";
import type { Engine, EngineImage, Output } from "./chain";

export class ServerEngine implements Engine {
  private readonly images = new Map<number, Promise<EngineImage>>();

  constructor(
    private readonly api: Api,
    private readonly stride: number,
  ) {}

  image(id: number): Promise<EngineImage> {
    let image = this.images.get(id);
    if (!image) {
      image = this.api.image(id).then(({ frame }) => {
        const [height, width] = frame.padded_hw;
        return { id, frame, logits_hw: [(4 * height) / this.stride, (4 * width) / this.stride] };
      });
      this.images.set(id, image);
      image.catch(() => this.images.delete(id));
    }
    return image;
  }

  async decode(image: EngineImage, prompt: Prompt, maskLogits: Logits | null, ambiguous: boolean): Promise<Output[]> {
    const [h, w] = image.logits_hw;
    const ask = (multimask: boolean) =>
      this.api.decode(image.id, {
        points: prompt.points,
        labels: prompt.labels,
        box: prompt.box,
        mask_logits: maskLogits && toBase64(maskLogits.values),
        multimask,
        return_logits: true,
      });
    const answers = await Promise.all(ambiguous ? [ask(true)] : [ask(false), ask(true)]);
    return answers
      .flat()
      .sort((a, b) => a.token_index - b.token_index)
      .map(({ token_index, score, segmentation, mask_logits }) => {
        const logits = { h, w, values: fromBase64(mask_logits ?? "") };
        return { token: token_index, score, logits, mask: () => decodeRle(segmentation) };
      });
  }
}

/** Little-endian half-precision numbers, as the contract has them. */
function toBase64(values: Float32Array): string {
  const bytes = new Uint8Array(floatsToHalves(values).buffer);
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

function fromBase64(text: string): Float32Array {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return halvesToFloats(new Uint16Array(bytes.buffer));
}
