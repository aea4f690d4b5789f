// A brush that covers exactly the pixels whose centres lie within its radius of the stroke.

import type { Point, Size } from "./view";
import type { Mask, Window } from "./mask";

/** Visit the runs [left, right) of row y that a stroke from a to b covers; a and b in image pixels, `diameter` too. */
export function strokeRuns(a: Point, b: Point, diameter: number, image: Size, visit: (y: number, left: number, right: number) => void): void {
  if (diameter <= 1) {
    walk(a, b, image, (x, y) => visit(y, x, x + 1));
    return;
  }
  const radius = diameter / 2;
  const top = Math.max(Math.ceil(Math.min(a.y, b.y) - radius - 0.5), 0);
  const bottom = Math.min(Math.floor(Math.max(a.y, b.y) + radius - 0.5), image.height - 1);
  for (let y = top; y <= bottom; y++) {
    const span = capsuleSpan(a, b, radius, y + 0.5);
    if (!span) continue;
    const left = Math.max(Math.ceil(span[0] - 0.5), 0);
    const right = Math.min(Math.floor(span[1] - 0.5) + 1, image.width);
    if (right > left) visit(y, left, right);
  }
}

/** Every pixel on the way from one place to the other: the one-pixel brush leaves no gaps. */
function walk(a: Point, b: Point, image: Size, visit: (x: number, y: number) => void): void {
  const steps = Math.max(1, Math.ceil(Math.max(Math.abs(b.x - a.x), Math.abs(b.y - a.y))));
  for (let step = 0; step <= steps; step++) {
    const x = Math.floor(a.x + ((b.x - a.x) * step) / steps);
    const y = Math.floor(a.y + ((b.y - a.y) * step) / steps);
    if (x >= 0 && y >= 0 && x < image.width && y < image.height) visit(x, y);
  }
}

/** Where the line at height y meets everything within `radius` of the segment a-b: [left, right] or null. It is convex. */
function capsuleSpan(a: Point, b: Point, radius: number, y: number): [number, number] | null {
  let left = Infinity;
  let right = -Infinity;
  for (const end of [a, b]) {
    const rest = radius * radius - (y - end.y) ** 2;
    if (rest < 0) continue;
    left = Math.min(left, end.x - Math.sqrt(rest));
    right = Math.max(right, end.x + Math.sqrt(rest));
  }
  const length = Math.hypot(b.x - a.x, b.y - a.y);
  if (length > 0) {
    // The two long sides: the segment moved by the radius to either hand.
    const offset = { x: (-(b.y - a.y) / length) * radius, y: ((b.x - a.x) / length) * radius };
    for (const sign of [1, -1]) {
      const from = { x: a.x + sign * offset.x, y: a.y + sign * offset.y };
      const to = { x: b.x + sign * offset.x, y: b.y + sign * offset.y };
      if (from.y === to.y || y < Math.min(from.y, to.y) || y > Math.max(from.y, to.y)) continue;
      const x = from.x + ((y - from.y) / (to.y - from.y)) * (to.x - from.x);
      left = Math.min(left, x);
      right = Math.max(right, x);
    }
  }
  return left <= right ? [left, right] : null;
}

/** The window that a stroke can touch. */
export function strokeWindow(a: Point, b: Point, diameter: number, image: Size): Window {
  const reach = diameter / 2 + 1;
  const left = Math.max(Math.floor(Math.min(a.x, b.x) - reach), 0);
  const top = Math.max(Math.floor(Math.min(a.y, b.y) - reach), 0);
  const right = Math.min(Math.ceil(Math.max(a.x, b.x) + reach), image.width);
  const bottom = Math.min(Math.ceil(Math.max(a.y, b.y) + reach), image.height);
  return { x: left, y: top, w: Math.max(right - left, 0), h: Math.max(bottom - top, 0) };
}

/** The pixels inside a closed polygon (even-odd, by their centres) as a mask; null for none. */
export function polygonMask(points: readonly Point[], image: Size): Mask | null {
  const top = Math.max(Math.floor(Math.min(...points.map((point) => point.y))), 0);
  const bottom = Math.min(Math.ceil(Math.max(...points.map((point) => point.y))), image.height);
  const left = Math.max(Math.floor(Math.min(...points.map((point) => point.x))), 0);
  const right = Math.min(Math.ceil(Math.max(...points.map((point) => point.x))), image.width);
  if (points.length < 3 || bottom <= top || right <= left) return null;
  const bits = new Uint8Array((right - left) * (bottom - top));
  for (let y = top; y < bottom; y++) {
    const crossings: number[] = [];
    points.forEach((from, index) => {
      const to = points[(index + 1) % points.length];
      if (from.y <= y + 0.5 !== to.y <= y + 0.5) crossings.push(from.x + ((y + 0.5 - from.y) / (to.y - from.y)) * (to.x - from.x));
    });
    crossings.sort((a, b) => a - b);
    for (let pair = 0; pair + 1 < crossings.length; pair += 2) {
      const start = Math.max(Math.ceil(crossings[pair] - 0.5), left);
      const end = Math.min(Math.ceil(crossings[pair + 1] - 0.5), right);
      if (end > start) bits.fill(1, (y - top) * (right - left) + start - left, (y - top) * (right - left) + end - left);
    }
  }
  return bits.includes(1) ? { ...image, x: left, y: top, w: right - left, h: bottom - top, bits } : null;
}
