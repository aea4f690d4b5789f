// A mask as something that can be drawn at any zoom: its outline along the pixels' edges, to be filled and stroked.

import { decodeRle, type Mask, type Rle } from "../core/mask";

export type Rgb = readonly [number, number, number];

const masks = new WeakMap<Rle, Mask>();

/** The mask of a code; decoded once. */
export function maskOf(rle: Rle): Mask {
  let mask = masks.get(rle);
  if (!mask) masks.set(rle, (mask = decodeRle(rle)));
  return mask;
}

export function rememberMask(rle: Rle, mask: Mask): void {
  masks.set(rle, mask);
}

const paths = new WeakMap<Mask, Path2D | null>();

/** The outline as closed lines in image pixels, the mask to the right of the way; null where there are too many. */
export function pathOf(mask: Mask): Path2D | null {
  let path = paths.get(mask);
  if (path === undefined) paths.set(mask, (path = tracedPath(mask)));
  return path;
}

function tracedPath(mask: Mask): Path2D | null {
  const lines = outlines(mask);
  if (!lines.length) return null;
  const path = new Path2D();
  for (const line of lines) {
    path.moveTo(line[0] + mask.x, line[1] + mask.y);
    for (let at = 2; at < line.length; at += 2) path.lineTo(line[at] + mask.x, line[at + 1] + mask.y);
    path.closePath();
  }
  return path;
}

const tints = new WeakMap<Mask, { key: string; tint: OffscreenCanvas | null }>();

/** The mask's window as a picture in one colour; null for an empty mask. */
export function tintOf(mask: Mask, rgb: Rgb): OffscreenCanvas | null {
  const key = rgb.join();
  const kept = tints.get(mask);
  if (kept?.key === key) return kept.tint;
  const tint = tinted(mask, rgb);
  tints.set(mask, { key, tint });
  return tint;
}

function tinted({ w, h, bits }: Mask, [red, green, blue]: Rgb): OffscreenCanvas | null {
  if (!w || !h) return null;
  const picture = new ImageData(w, h);
  const pixels = new Uint32Array(picture.data.buffer); // little-endian: alpha is the highest byte
  const colour = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  for (let at = 0; at < bits.length; at++) if (bits[at]) pixels[at] = colour;
  const canvas = new OffscreenCanvas(w, h);
  canvas.getContext("2d")!.putImageData(picture, 0, 0);
  return canvas;
}

const RIGHT = 0;

/** A mask more ragged than this is drawn by its tint alone: its outline would cover it, and take longer than the decoder. */
const MAX_CORNERS = 12_000;

/** Corners x, y, x, y, ... of every closed outline, in the window's pixels; none where there are too many. */
export function outlines({ w, h, bits }: Mask): number[][] {
  // A border of zeros around, so that nobody need ask whether a neighbour is there.
  const across = w + 2;
  const padded = new Uint8Array(across * (h + 2));
  for (let row = 0; row < h; row++) padded.set(bits.subarray(row * w, (row + 1) * w), (row + 1) * across + 1);
  // By way (right, down, left, up): the step to the next corner, and the pixels ahead of it on either hand.
  const step = [1, across, -1, -across];
  const left = [-across, 0, -1, -across - 1];
  const right = [0, -1, -across - 1, -across];
  const WALKED = 2; // a pixel whose top edge belongs to an outline already
  const found: number[][] = [];
  let cornersLeft = MAX_CORNERS;
  for (let start = across; start < padded.length; start++) {
    // Every outline, around a hole too, has a top edge; it is walked to the right, from corner to corner, which are
    // named after the pixel to the lower right.
    if (padded[start] !== 1 || padded[start - across]) continue;
    const corners: number[] = [];
    let at = start;
    let way = RIGHT;
    do {
      if (way === RIGHT) padded[at] = WALKED;
      at += step[way];
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
