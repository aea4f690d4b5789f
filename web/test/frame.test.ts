import { describe, expect, it } from "vitest";
import { logitsToMask, maskToLogits, type Frame, type Logits } from "../src/core/frame";
import { maskHas } from "../src/core/mask";
import { randomFrom, randomMask } from "./random";

/** Every pixel by itself, from the definition. */
function slowly(logits: Logits, frame: Frame, x: number, y: number): number {
  const along = (pixel: number, pixels: number, cells: number, extent: number) => {
    const place = Math.min(Math.max(((pixel + 0.5) * extent) / pixels - 0.5, 0), cells - 1);
    const lower = Math.min(Math.floor(place), Math.max(cells - 2, 0));
    return [lower, Math.min(lower + 1, cells - 1), place - lower];
  };
  const [height, width] = frame.original_hw;
  const [top, bottom, down] = along(y, height, logits.h, (frame.resized_hw[0] * logits.h) / frame.padded_hw[0]);
  const [left, right, across] = along(x, width, logits.w, (frame.resized_hw[1] * logits.w) / frame.padded_hw[1]);
  const at = (row: number, column: number) => logits.values[row * logits.w + column];
  const upper = at(top, left) * (1 - across) + at(top, right) * across;
  const lower = at(bottom, left) * (1 - across) + at(bottom, right) * across;
  return upper * (1 - down) + lower * down;
}

const FRAMES: Frame[] = [
  { original_hw: [30, 47], resized_hw: [41, 64], padded_hw: [64, 64] },
  { original_hw: [200, 90], resized_hw: [64, 29], padded_hw: [64, 32] },
  { original_hw: [1, 50], resized_hw: [1, 64], padded_hw: [32, 64] },
];

describe("masks from logits", () => {
  it("are the bilinear ones, cut at 0", () => {
    const random = randomFrom(3);
    for (const frame of FRAMES) {
      for (const sparse of [0, 1, 3]) {
        const [h, w] = frame.padded_hw.map((side) => side / 4);
        const logits = { h, w, values: Float32Array.from({ length: h * w }, () => random() * 4 - 2 - sparse * 0.6) };
        const mask = logitsToMask(logits, frame);
        const [height, width] = frame.original_hw;
        let wrong = 0;
        for (let y = 0; y < height; y++) {
          for (let x = 0; x < width; x++) {
            const value = slowly(logits, frame, x, y);
            if (Math.abs(value) > 1e-5 && maskHas(mask, x, y) !== value > 0) wrong++;
          }
        }
        expect(wrong).toBe(0);
      }
    }
  });

  it("are empty without anything above 0", () => {
    const logits = { h: 16, w: 16, values: new Float32Array(256).fill(-1) };
    expect(logitsToMask(logits, FRAMES[0]).w).toBe(0);
  });
});

describe("logits from masks", () => {
  it("hold the share of each cell that is covered", () => {
    const frame: Frame = { original_hw: [12, 12], resized_hw: [24, 24], padded_hw: [32, 32] };
    const mask = randomMask(randomFrom(4), { width: 12, height: 12 });
    const logits = maskToLogits(mask, frame, 8, 8); // a cell is two pixels wide
    for (let row = 0; row < 8; row++) {
      for (let column = 0; column < 8; column++) {
        let covered = 0;
        for (const [x, y] of [[0, 0], [1, 0], [0, 1], [1, 1]]) covered += maskHas(mask, 2 * column + x, 2 * row + y) ? 0.25 : 0;
        expect(logits.values[row * 8 + column]).toBeCloseTo((2 * covered - 1) * 8, 4);
      }
    }
  });

  it("come back as the mask that they were made from", () => {
    const frame: Frame = { original_hw: [100, 160], resized_hw: [40, 64], padded_hw: [64, 64] };
    const bits = new Uint8Array(60 * 50).fill(1);
    const mask = { width: 160, height: 100, x: 40, y: 20, w: 60, h: 50, bits };
    const back = logitsToMask(maskToLogits(mask, frame, 16, 16), frame);
    for (const [x, y] of [[70, 45], [50, 30], [90, 60]]) expect(maskHas(back, x, y)).toBe(true);
    for (const [x, y] of [[20, 45], [70, 5], [120, 90]]) expect(maskHas(back, x, y)).toBe(false);
  });
});
