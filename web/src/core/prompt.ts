// What was asked of one object, step by step, and how a step becomes what the decoder reads.

import { pointToModel, type Frame } from "./frame";
import type { Rle } from "./mask";

export type BoxXYXY = readonly [number, number, number, number];

/**
 * One click or box. `token` is the decoder output that was chosen after it (0 the single answer, 1 to 3 the ambiguous
 * ones), -1 while none is: the next step builds on that answer's logits.
 */
export type Step =
  | { readonly kind: "point"; readonly x: number; readonly y: number; readonly label: 0 | 1; readonly token: number }
  | { readonly kind: "box"; readonly box: BoxXYXY; readonly token: number };

export interface Prompt {
  readonly points: readonly (readonly [number, number])[];
  readonly labels: readonly (0 | 1)[];
  readonly box: BoxXYXY | null;
}

/** All points of the steps, and the last box. */
export function promptOf(steps: readonly Step[]): Prompt {
  const points = steps.filter((step) => step.kind === "point");
  const boxes = steps.filter((step) => step.kind === "box");
  return {
    points: points.map((step) => [step.x, step.y] as const),
    labels: points.map((step) => step.label),
    box: boxes.at(-1)?.box ?? null,
  };
}

/** A lone point or box is ambiguous: three answers (paper, section 3). */
export function isAmbiguous(steps: readonly Step[], base: Rle | null): boolean {
  return steps.length === 1 && base === null;
}

/** The graph's `points_xy` (N, 2) and `labels` (N): box corners are points, and without a box there is one "not a point". */
export function graphPrompt(prompt: Prompt, frame: Frame): { points: Float32Array; labels: Int32Array } {
  const points = prompt.points.map(([x, y]) => pointToModel(frame, x, y));
  const labels: number[] = [...prompt.labels];
  if (prompt.box) {
    points.push(pointToModel(frame, prompt.box[0], prompt.box[1]), pointToModel(frame, prompt.box[2], prompt.box[3]));
    labels.push(2, 3);
  } else {
    points.push([0, 0]);
    labels.push(-1);
  }
  return { points: Float32Array.from(points.flat()), labels: Int32Array.from(labels) };
}

/** A box between two corners inside the image, or null where it has no area. */
export function boxBetween(
  a: { x: number; y: number },
  b: { x: number; y: number },
  image: { width: number; height: number },
): BoxXYXY | null {
  const clamp = (value: number, high: number) => Math.min(Math.max(value, 0), high);
  const x0 = clamp(Math.min(a.x, b.x), image.width);
  const y0 = clamp(Math.min(a.y, b.y), image.height);
  const x1 = clamp(Math.max(a.x, b.x), image.width);
  const y1 = clamp(Math.max(a.y, b.y), image.height);
  return x1 - x0 >= 1 && y1 - y0 >= 1 ? [x0, y0, x1, y1] : null;
}
