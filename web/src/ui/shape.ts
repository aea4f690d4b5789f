// A mask as something that can be drawn at any zoom: its outline along the pixels' edges, to be filled and stroked, as fine
// as the screen can show it.

import { decodeRle, type Mask, type Rle } from "../core/mask";
import { outlines, outlineStep, type Outline } from "../core/outline";

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

const paths = new WeakMap<Mask, Map<number, Path2D | null>>();

/**
 * The outline as closed lines in image pixels, the mask to the right of the way, for drawing at `scale` pixels of the screen
 * to one of the image; null where there are too many.
 */
export function pathOf(mask: Mask, scale: number): Path2D | null {
  const step = outlineStep(scale);
  const known = paths.get(mask)?.get(step);
  return known === undefined ? rememberOutline(mask, { step, lines: outlines(mask, step) }) : known;
}

/** An outline that was traced already: the decoder's worker has the mask at hand, here it would come from afar. */
export function rememberOutline(mask: Mask, outline: Outline): Path2D | null {
  const path = pathAlong(mask, outline);
  const known = paths.get(mask);
  if (known) known.set(outline.step, path);
  else paths.set(mask, new Map([[outline.step, path]]));
  return path;
}

function pathAlong(mask: Mask, { step, lines }: Outline): Path2D | null {
  if (!lines.length) return null;
  const x = (column: number) => mask.x + Math.min(column * step, mask.w);
  const y = (row: number) => mask.y + Math.min(row * step, mask.h);
  const path = new Path2D();
  for (const line of lines) {
    path.moveTo(x(line[0]), y(line[1]));
    for (let at = 2; at < line.length; at += 2) path.lineTo(x(line[at]), y(line[at + 1]));
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
