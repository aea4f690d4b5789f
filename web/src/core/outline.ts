// Outlines of masks along the pixels' edges, and as polygons with few corners. Pure.

import type { Mask } from "./mask";
import { Scratch } from "./scratch";
import type { Point } from "./view";

const RIGHT = 0;

/** What `outlines` gives for a step. */
export interface Outline {
  readonly step: number;
  readonly lines: readonly (readonly number[])[];
}

/**
 * How long steps of an outline are that is seen at `scale` pixels of the screen to one of the image: 0.7 to 1.4 of the screen's,
 * so that a picture shown at half its size needs a quarter of the work.
 */
export function outlineStep(scale: number): number {
  return 2 ** Math.max(0, Math.round(-Math.log2(scale)));
}

/** A mask more ragged than this is drawn by its tint alone: its outline would cover it, and take longer than the decoder. */
const MAX_CORNERS = 12_000;

const scratch = new Scratch();

/**
 * Corners x, y, x, y, ... of every closed outline, in the window's pixels; none where there are too many.
 *
 * With a `step` in squares of so many pixels, of which the middle one stands for all.
 */
export function outlines(mask: Mask, step = 1): number[][] {
  const [w, h] = [mask.w, mask.h].map((pixels) => Math.ceil(pixels / step));
  // A border of zeros around, so that nobody need ask whether a neighbour is there, and lines of whole words.
  const across = (w + 5) & ~3;
  const { bytes: padded, words } = scratch.take(across * (h + 2));
  for (let row = 0; row < h; row++) copyRow(mask, row, step, padded, (row + 1) * across + 1);
  // By way (right, down, left, up): how far the next corner is, and the pixels ahead of it on either hand.
  const ahead = [1, across, -1, -across];
  const left = [-across, 0, -1, -across - 1];
  const right = [0, -1, -across - 1, -across];
  const WALKED = 2; // the bit of a pixel whose top edge belongs to an outline already
  const found: number[][] = [];
  let cornersLeft = MAX_CORNERS;
  for (let start = across; start < padded.length; start++) {
    // Every outline, around a hole too, has a top edge; it is walked to the right, from corner to corner, which are
    // named after the pixel to the lower right. Most words of four pixels have none.
    if (start % 4 === 0) {
      const word = words[start >> 2];
      if (!(word & ~(word >>> 1) & ~words[(start - across) >> 2] & 0x01010101)) {
        start += 3;
        continue;
      }
    }
    if (padded[start] !== 1 || padded[start - across]) continue;
    const corners: number[] = [];
    let at = start;
    let way = RIGHT;
    do {
      if (way === RIGHT) padded[at] |= WALKED;
      at += ahead[way];
      // Turning left first joins pixels that touch at a corner.
      const next = padded[at + left[way]] ? (way + 3) % 4 : padded[at + right[way]] ? way : (way + 1) % 4;
      if (next !== way) corners.push((at % across) - 1, Math.floor(at / across) - 1);
      way = next;
    } while (at !== start || way !== RIGHT);
    cornersLeft -= corners.length / 2;
    if (cornersLeft < 0) return [];
    found.push(corners);
  }
  return found;
}

/** A row of every `step`-th pixel of a mask, taken from the middle of squares of which the last ones may be cut short. */
function copyRow({ w, h, bits }: Mask, row: number, step: number, target: Uint8Array, at: number): void {
  const middle = step >> 1;
  const start = Math.min(row * step + middle, h - 1) * w;
  const end = start + w;
  if (step === 1) {
    target.set(bits.subarray(start, end), at);
    return;
  }
  let from = start + middle;
  for (; from < end; from += step) target[at++] = bits[from];
  if (from - middle < end) target[at] = bits[end - 1];
}

/** A closed outline as a polygon in image pixels; a hole's takes away. */
export interface Ring {
  readonly points: readonly Point[];
  readonly isHole: boolean;
}

/** The polygons of a mask, none farther than `tolerance` pixels from the outline; those with less than `minArea` are left out. */
export function ringsOf(mask: Mask, tolerance: number, minArea: number): Ring[] {
  const rings: Ring[] = [];
  for (const line of outlines(mask)) {
    const points: Point[] = [];
    for (let at = 0; at < line.length; at += 2) points.push({ x: line[at] + mask.x, y: line[at + 1] + mask.y });
    // The mask lies to the right of the way, so around a hole the way goes the other way.
    const area = signedArea(points);
    if (Math.abs(area) < minArea) continue;
    const simple = simplified(points, tolerance);
    if (simple.length > 2) rings.push({ points: simple, isHole: area < 0 });
  }
  return rings;
}

/** Positive where the way goes clockwise on the screen. */
function signedArea(points: readonly Point[]): number {
  let twice = 0;
  points.forEach((from, index) => {
    const to = points[(index + 1) % points.length];
    twice += from.x * to.y - to.x * from.y;
  });
  return twice / 2;
}

/** A closed line with fewer corners, none of those left out farther than `tolerance` from it (Douglas and Peucker). */
export function simplified(points: readonly Point[], tolerance: number): Point[] {
  const far = farthest(points, 0, points.length, (point) => Math.hypot(point.x - points[0].x, point.y - points[0].y));
  const kept = new Set([0, far.index]);
  const parts: [number, number][] = [[0, far.index], [far.index, points.length]];
  for (let part = parts.pop(); part; part = parts.pop()) {
    const [from, to] = part;
    const { index, distance } = farthest(points, from, to, toSegment(points[from], points[to % points.length]));
    if (distance <= tolerance) continue;
    kept.add(index);
    parts.push([from, index], [index, to]);
  }
  return [...kept].sort((a, b) => a - b).map((index) => points[index]);
}

function farthest(points: readonly Point[], from: number, to: number, distanceOf: (point: Point) => number): { index: number; distance: number } {
  let index = from;
  let distance = 0;
  for (let at = from + 1; at < to; at++) {
    const found = distanceOf(points[at]);
    if (found > distance) [index, distance] = [at, found];
  }
  return { index, distance };
}

/** How far a point is from the segment between two. */
export function toSegment(a: Point, b: Point): (point: Point) => number {
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const square = dx * dx + dy * dy;
  return ({ x, y }) => {
    const share = square ? Math.max(0, Math.min(((x - a.x) * dx + (y - a.y) * dy) / square, 1)) : 0;
    return Math.hypot(x - a.x - share * dx, y - a.y - share * dy);
  };
}
