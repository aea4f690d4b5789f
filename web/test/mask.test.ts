import { describe, expect, it } from "vitest";
import { decodeRle, emptyMask, encodeRle, maskArea, maskHas, painted, rewindow, rleArea, trimmed, type Mask } from "../src/core/mask";
import { randomFrom, randomMask } from "./random";

/** Run lengths of the whole image, column by column, the slow and plain way. */
function plainRuns(mask: Mask): number[] {
  const runs = [0];
  let value = false;
  for (let x = 0; x < mask.width; x++) {
    for (let y = 0; y < mask.height; y++) {
      if (maskHas(mask, x, y) !== value) {
        runs.push(0);
        value = !value;
      }
      runs[runs.length - 1]++;
    }
  }
  return runs;
}

/** COCO's text to run lengths, written from the format's description. */
function readCounts(counts: string): number[] {
  const runs: number[] = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0n;
    let shift = 0n;
    let code: number;
    do {
      code = counts.charCodeAt(at++) - 48;
      value |= BigInt(code & 31) << shift;
      shift += 5n;
    } while (code & 32);
    if (code & 16) value -= 1n << shift;
    runs.push(Number(value) + (runs.length > 2 ? runs[runs.length - 2] : 0));
  }
  return runs;
}

describe("run-length codes", () => {
  it("knows a code that pycocotools wrote", () => {
    // pycocotools.mask.encode of a 4x5 mask with rows 1 to 2, columns 1 to 3 set.
    const rle = { size: [4, 5], counts: "5220003" } as const;
    const mask = decodeRle(rle);
    expect([mask.x, mask.y, mask.w, mask.h]).toEqual([1, 1, 3, 2]);
    expect(encodeRle(mask)).toEqual(rle);
  });

  it("gives every mask back, whatever its window", () => {
    const random = randomFrom(1);
    for (let round = 0; round < 300; round++) {
      const mask = randomMask(random);
      const rle = encodeRle(mask);
      expect(readCounts(rle.counts)).toEqual(plainRuns(mask));
      const back = decodeRle(rle);
      expect(encodeRle(back)).toEqual(rle);
      expect(maskArea(back)).toBe(maskArea(mask));
      expect(rleArea(encodeRle(mask))).toBe(maskArea(mask));
      const whole = rewindow(mask, { x: 0, y: 0, w: mask.width, h: mask.height });
      expect(encodeRle(whole)).toEqual(rle);
      expect(back).toEqual(trimmed(whole));
    }
  });

  it("refuses broken codes", () => {
    expect(() => decodeRle({ size: [4, 5], counts: "52" })).toThrow("add up");
    expect(() => decodeRle({ size: [4, 5], counts: "~" })).toThrow("not allowed");
    expect(() => decodeRle({ size: [4, 5], counts: "P" })).toThrow("middle");
  });

  it("holds large runs", () => {
    const mask = { ...emptyMask(20000, 15000), x: 19999, y: 14999, w: 1, h: 1, bits: Uint8Array.of(1) };
    const rle = encodeRle(mask);
    expect(readCounts(rle.counts)).toEqual([20000 * 15000 - 1, 1]);
    expect(decodeRle(rle)).toEqual(mask);
  });
});

describe("painting", () => {
  it("adds and erases exactly the pixels named", () => {
    const random = randomFrom(2);
    for (let round = 0; round < 100; round++) {
      const mask = randomMask(random);
      const size = { width: mask.width, height: mask.height };
      const added = random() < 0.7 ? randomMask(random, size) : null;
      const erased = random() < 0.7 ? randomMask(random, size) : null;
      const result = painted(mask, added, erased);
      let wrong = 0;
      for (let y = 0; y < mask.height; y++) {
        for (let x = 0; x < mask.width; x++) {
          const wanted = (maskHas(mask, x, y) || (added !== null && maskHas(added, x, y))) && !(erased !== null && maskHas(erased, x, y));
          if (maskHas(result, x, y) !== wanted) wrong++;
        }
      }
      expect(wrong).toBe(0);
    }
  });
});
