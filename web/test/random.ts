import type { Mask } from "../src/core/mask";

/** The same numbers in [0, 1) each time (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function randomMask(random: () => number, size?: { width: number; height: number }): Mask {
  const width = size?.width ?? 1 + Math.floor(random() * 12);
  const height = size?.height ?? 1 + Math.floor(random() * 12);
  const x = Math.floor(random() * width);
  const y = Math.floor(random() * height);
  const isWhole = random() < 0.3;
  const window = isWhole ? { x: 0, y: 0, w: width, h: height } : { x, y, w: Math.ceil(random() * (width - x)), h: Math.ceil(random() * (height - y)) };
  const share = [0, 0.2, 0.5, 0.9, 1][Math.floor(random() * 5)];
  const bits = Uint8Array.from({ length: window.w * window.h }, () => (random() < share ? 1 : 0));
  return { width, height, ...window, bits };
}
