import { describe, expect, it } from "vitest";
import { polygonMask, strokeRuns } from "../src/core/brush";
import { maskHas } from "../src/core/mask";
import { boxBetween, graphPrompt, isAmbiguous, promptOf, type Step } from "../src/core/prompt";
import { floatsToHalves, halvesToFloats, readSafetensors } from "../src/core/safetensors";
import { fitView, keptInSight, pinched, toImage, toScreen, zoomedAt } from "../src/core/view";
import { outlines } from "../src/core/outline";
import { randomFrom, randomMask } from "./random";

describe("half-precision numbers", () => {
  it("go there and back", () => {
    const all = Uint16Array.from({ length: 1 << 16 }, (_, index) => index).filter((half) => (half & 0x7c00) !== 0x7c00 && half !== 0x8000);
    expect(floatsToHalves(halvesToFloats(all))).toEqual(all);
    expect([...halvesToFloats(Uint16Array.of(0x3c00, 0xc000, 0x3555, 1, 0x7c00))]).toEqual([1, -2, 0.333251953125, 2 ** -24, Infinity]);
    expect([...floatsToHalves(Float32Array.of(1e9, -1e9, 0.1, 2 ** -25))]).toEqual([0x7bff, 0xfbff, 0x2e66, 0]);
  });
});

describe("safetensors", () => {
  const file = (header: object, data: Uint8Array) => {
    const text = new TextEncoder().encode(JSON.stringify(header));
    const bytes = new Uint8Array(8 + text.length + data.length);
    new DataView(bytes.buffer).setUint32(0, text.length, true);
    bytes.set(text, 8);
    bytes.set(data, 8 + text.length);
    return bytes.buffer;
  };

  it("are read, whatever their alignment", () => {
    const header = { __metadata__: { fingerprint: "abc" }, x: { dtype: "F16", shape: [1, 2], data_offsets: [1, 5] } };
    const { tensors, metadata } = readSafetensors(file(header, Uint8Array.of(9, 0x00, 0x3c, 0x00, 0xc0)));
    expect(tensors.x).toEqual({ shape: [1, 2], values: Float32Array.of(1, -2) });
    expect(metadata.fingerprint).toBe("abc");
  });

  it("are refused where they are broken", () => {
    expect(() => readSafetensors(new ArrayBuffer(3))).toThrow("too short");
    expect(() => readSafetensors(Uint8Array.of(255, 0, 0, 0, 0, 0, 0, 0, 1).buffer)).toThrow("longer than the file");
    expect(() => readSafetensors(file({ x: { dtype: "I8", shape: [1], data_offsets: [0, 1] } }, Uint8Array.of(1)))).toThrow("I8");
    expect(() => readSafetensors(file({ x: { dtype: "F16", shape: [9], data_offsets: [0, 2] } }, Uint8Array.of(1, 2)))).toThrow("1 values");
  });
});

describe("prompts", () => {
  const frame = { original_hw: [100, 200], resized_hw: [50, 100], padded_hw: [64, 128] } as const;
  const point: Step = { kind: "point", x: 20, y: 40, label: 0, token: -1 };
  const box: Step = { kind: "box", box: [0, 10, 50, 60], token: -1 };

  it("get one 'not a point' without a box, and two corners with one", () => {
    expect(graphPrompt(promptOf([point]), frame)).toEqual({ points: Float32Array.of(10, 20, 0, 0), labels: Int32Array.of(0, -1) });
    expect(graphPrompt(promptOf([point, box]), frame)).toEqual({ points: Float32Array.of(10, 20, 0, 5, 25, 30), labels: Int32Array.of(0, 2, 3) });
  });

  it("are ambiguous when they are alone", () => {
    expect(isAmbiguous([point], null)).toBe(true);
    expect(isAmbiguous([box], null)).toBe(true);
    expect(isAmbiguous([point, box], null)).toBe(false);
    expect(isAmbiguous([point], { size: [1, 1], counts: "1" })).toBe(false);
  });

  it("have boxes inside the image, with an area", () => {
    const image = { width: 200, height: 100 };
    expect(boxBetween({ x: 250, y: 50 }, { x: 10, y: -5 }, image)).toEqual([10, 0, 200, 50]);
    expect(boxBetween({ x: 10, y: 10 }, { x: 10.5, y: 50 }, image)).toBe(null);
  });
});

describe("the view", () => {
  const image = { width: 400, height: 300 };
  const canvas = { width: 900, height: 700 };

  it("keeps what is under the pointer there", () => {
    let view = fitView(image, canvas, 20);
    const at = { x: 300, y: 200 };
    const before = toImage(view, at);
    for (const factor of [1.3, 2, 0.2, 100, 0.001, 3]) {
      view = zoomedAt(view, at, factor, image, canvas);
      expect(toImage(view, at).x).toBeCloseTo(before.x, 6);
      expect(toScreen(view, before).y).toBeCloseTo(at.y, 6);
    }
  });

  it("follows two fingers", () => {
    const view = { scale: 1, x: 0, y: 0 };
    const after = pinched(view, [{ x: 100, y: 100 }, { x: 200, y: 100 }], [{ x: 100, y: 150 }, { x: 300, y: 150 }], image, canvas);
    expect(after.scale).toBeCloseTo(2);
    expect(toScreen(after, { x: 100, y: 100 })).toEqual({ x: 100, y: 150 });
    expect(toScreen(after, { x: 200, y: 100 })).toEqual({ x: 300, y: 150 });
  });

  it("never loses the image", () => {
    const view = keptInSight({ scale: 1, x: 5000, y: -5000 }, image, canvas);
    expect(view.x).toBeLessThan(canvas.width);
    expect(view.y + image.height).toBeGreaterThan(0);
  });
});

describe("the brush", () => {
  it("covers the pixels whose centres are within its radius of the stroke", () => {
    const random = randomFrom(5);
    const image = { width: 40, height: 30 };
    for (let round = 0; round < 150; round++) {
      const a = { x: random() * 44 - 2, y: random() * 34 - 2 };
      const b = random() < 0.2 ? a : { x: random() * 44 - 2, y: random() < 0.2 ? a.y : random() * 34 - 2 };
      const diameter = 2 + Math.floor(random() * 12);
      const painted = new Set<number>();
      strokeRuns(a, b, diameter, image, (y, left, right) => {
        for (let x = left; x < right; x++) painted.add(y * image.width + x);
      });
      let wrong = 0;
      for (let y = 0; y < image.height; y++) {
        for (let x = 0; x < image.width; x++) {
          const [dx, dy] = [b.x - a.x, b.y - a.y];
          const along = dx || dy ? Math.max(0, Math.min(1, ((x + 0.5 - a.x) * dx + (y + 0.5 - a.y) * dy) / (dx * dx + dy * dy))) : 0;
          const distance = Math.hypot(x + 0.5 - a.x - along * dx, y + 0.5 - a.y - along * dy);
          if (Math.abs(distance - diameter / 2) > 1e-6 && painted.has(y * image.width + x) !== distance < diameter / 2) wrong++;
        }
      }
      expect(wrong).toBe(0);
    }
  });

  it("of one pixel leaves no gaps", () => {
    const places: [number, number][] = [];
    strokeRuns({ x: 0.5, y: 0.5 }, { x: 9.5, y: 5.5 }, 1, { width: 10, height: 10 }, (y, left) => places.push([left, y]));
    for (let index = 1; index < places.length; index++) {
      expect(Math.max(Math.abs(places[index][0] - places[index - 1][0]), Math.abs(places[index][1] - places[index - 1][1]))).toBe(1);
    }
    expect(places.at(-1)).toEqual([9, 5]);
  });

  it("fills a polygon by its pixels' centres", () => {
    const square = [{ x: 2, y: 2 }, { x: 8, y: 2 }, { x: 8, y: 6 }, { x: 2, y: 6 }];
    const mask = polygonMask(square, { width: 10, height: 10 })!;
    expect(mask.bits.reduce((sum, bit) => sum + bit, 0)).toBe(24);
    expect([maskHas(mask, 2, 2), maskHas(mask, 7, 5), maskHas(mask, 8, 5)]).toEqual([true, true, false]);
    expect(polygonMask(square.slice(0, 2), { width: 10, height: 10 })).toBe(null);
    expect(polygonMask(square.map(({ x, y }) => ({ x: x + 50, y })), { width: 10, height: 10 })).toBe(null);
  });
});

describe("outlines", () => {
  it("are left out where a mask is mere noise", () => {
    const bits = Uint8Array.from({ length: 200 * 200 }, (_, at) => (at + Math.floor(at / 200)) % 2);
    expect(outlines({ width: 200, height: 200, x: 0, y: 0, w: 200, h: 200, bits })).toEqual([]);
  });

  it("enclose exactly the mask (even-odd)", () => {
    const random = randomFrom(6);
    for (let round = 0; round < 200; round++) {
      const mask = randomMask(random);
      const lines = outlines(mask);
      let wrong = 0;
      for (let y = 0; y < mask.h; y++) {
        for (let x = 0; x < mask.w; x++) {
          let crossings = 0;
          for (const line of lines) {
            for (let at = 0; at < line.length; at += 2) {
              const [x0, y0] = [line[at], line[at + 1]];
              const [x1, y1] = [line[(at + 2) % line.length], line[(at + 3) % line.length]];
              if (x0 === x1 && x0 > x + 0.5 && Math.min(y0, y1) < y + 0.5 && Math.max(y0, y1) > y + 0.5) crossings++;
            }
          }
          if (crossings % 2 !== mask.bits[y * mask.w + x]) wrong++;
        }
      }
      expect(wrong).toBe(0);
    }
  });
});
