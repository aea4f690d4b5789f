// A mask as something that can be drawn at any zoom: its outline along the pixels' edges, to be filled and stroked.

import { decodeRle, type Mask, type Rle } from "../core/mask";
import { outlines } from "../core/outline";

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
