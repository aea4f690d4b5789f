// The answer to a chain of steps: each step is decoded with all prompts so far and the logits chosen after the step before.
// Whoever decodes (WASM here, or the server) is an `Engine`; the chain itself is the same, and so are the masks.

import { maskToLogits, type Frame, type Logits } from "../core/frame";
import { decodeRle, type Mask, type Rle } from "../core/mask";
import { isAmbiguous, promptOf, type Prompt, type Step } from "../core/prompt";

/** One decoder output. */
export interface Output {
  readonly token: number;
  readonly score: number;
  readonly logits: Logits;
  /** At the image's own size; made anew whenever it is asked for. */
  mask(): Mask;
}

export interface EngineImage {
  readonly id: number;
  readonly frame: Frame;
  /** The size of the mask logits. */
  readonly logits_hw: readonly [number, number];
}

export interface Engine {
  image(id: number): Promise<EngineImage>;
  /** Outputs 1 to 3, after output 0 unless the prompt is ambiguous. */
  decode(image: EngineImage, prompt: Prompt, maskLogits: Logits | null, ambiguous: boolean): Promise<Output[]>;
}

export interface ChainRequest {
  readonly imageId: number;
  /** The mask that was there before the first step, if any. */
  readonly base: Rle | null;
  readonly steps: readonly Step[];
}

const KEPT_ANSWERS = 24;

/** Decodes chains and remembers the latest answers, so that a further click costs one run of the decoder. */
export class Chain {
  private readonly answers = new Map<string, Promise<Output[]>>();

  constructor(private readonly engine: Engine) {}

  /** The outputs after the last step. */
  decode({ imageId, base, steps }: ChainRequest): Promise<Output[]> {
    const last = steps[steps.length - 1];
    const key = JSON.stringify([imageId, base?.counts, steps.slice(0, -1), { ...last, token: -1 }]);
    const known = this.answers.get(key);
    this.answers.delete(key); // the latest used comes last
    const answer = known ?? this.run({ imageId, base, steps });
    this.answers.set(key, answer);
    if (!known) answer.catch(() => this.answers.delete(key));
    for (const oldest of this.answers.keys()) {
      if (this.answers.size <= KEPT_ANSWERS) break;
      this.answers.delete(oldest);
    }
    return answer;
  }

  private async run({ imageId, base, steps }: ChainRequest): Promise<Output[]> {
    const image = await this.engine.image(imageId);
    let maskLogits: Logits | null = null;
    if (steps.length > 1) {
      const before = await this.decode({ imageId, base, steps: steps.slice(0, -1) });
      maskLogits = chosenOutput(before, steps[steps.length - 2].token).logits;
    } else if (base) {
      const mask = decodeRle(base);
      if (mask.w > 0) maskLogits = maskToLogits(mask, image.frame, ...image.logits_hw);
    }
    return this.engine.decode(image, promptOf(steps), maskLogits, isAmbiguous(steps, base));
  }
}

/** The output with a token; without one the single answer, or the most confident of the ambiguous ones. */
export function chosenOutput<T extends { token: number; score: number }>(outputs: readonly T[], token: number): T {
  const wanted = outputs.find((output) => output.token === token);
  if (wanted) return wanted;
  const single = outputs.find((output) => output.token === 0);
  return single ?? outputs.reduce((best, output) => (output.score > best.score ? output : best));
}
