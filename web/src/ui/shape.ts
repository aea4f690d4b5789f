// A mask as something that can be drawn at any zoom: a tinted picture of its window, and its outline along pixel edges.

import { decodeRle, type Mask, type Rle } from "../core/mask";

export interface Shape {
  readonly mask: Mask;
  readonly tint: OffscreenCanvas | null;
  /** In image pixels. */
  readonly outline: Path2D;
}

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

const shapes = new WeakMap<Mask, Map<string, Shape>>();

/** The shape of a mask in a colour; made once. */
export function shapeOf(mask: Mask, rgb: Rgb): Shape {
  let ofMask = shapes.get(mask);
  if (!ofMask) shapes.set(mask, (ofMask = new Map()));
  const key = rgb.join();
  let shape = ofMask.get(key);
  if (!shape) {
    const other = ofMask.values().next().value;
    shape = { mask, tint: tintOf(mask, rgb), outline: other?.outline ?? outlineOf(mask) };
    ofMask.set(key, shape);
  }
  return shape;
}

export function tintOf(mask: Mask, [red, green, blue]: Rgb): OffscreenCanvas | null {
  if (!mask.w || !mask.h) return null;
  const picture = new ImageData(mask.w, mask.h);
  const pixels = new Uint32Array(picture.data.buffer); // little-endian: alpha is the highest byte
  const colour = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  const { bits } = mask;
  for (let at = 0; at < bits.length; at++) if (bits[at]) pixels[at] = colour;
  const canvas = new OffscreenCanvas(mask.w, mask.h);
  canvas.getContext("2d")!.putImageData(picture, 0, 0);
  return canvas;
}

/** The outline as closed lines along the pixels' edges, the mask to the right of the way. */
export function outlineOf(mask: Mask): Path2D {
  const path = new Path2D();
  for (const line of outlines(mask)) {
    path.moveTo(line[0] + mask.x, line[1] + mask.y);
    for (let at = 2; at < line.length; at += 2) path.lineTo(line[at] + mask.x, line[at + 1] + mask.y);
    path.closePath();
  }
  return path;
}

const RIGHT = 0;
const DOWN = 1;
const LEFT = 2;

/** A mask more ragged than this is drawn by its tint alone: its outline would cover it, and take longer than the decoder. */
const MAX_CORNERS = 12_000;

/** Corners x, y, x, y, ... of every closed outline, in the window's pixels; none where there are too many. */
export function outlines({ w, h, bits }: Mask): number[][] {
  const at = (x: number, y: number) => x >= 0 && y >= 0 && x < w && y < h && bits[y * w + x] === 1;
  const walked = new Uint8Array(w * h); // top edges that belong to an outline already
  const found: number[][] = [];
  let cornersLeft = MAX_CORNERS;
  for (let row = 0; row < h; row++) {
    for (let column = 0; column < w; column++) {
      const index = row * w + column;
      // Every outline, around a hole too, has a top edge; it is walked to the right.
      if (!bits[index] || walked[index] || (row > 0 && bits[index - w])) continue;
      const corners: number[] = [];
      let x = column;
      let y = row;
      let way = RIGHT;
      do {
        if (way === RIGHT) walked[y * w + x] = 1;
        x += way === RIGHT ? 1 : way === LEFT ? -1 : 0;
        y += way === DOWN ? 1 : way === RIGHT || way === LEFT ? 0 : -1;
        // The pixels ahead, to the left and to the right of the way; turning left first joins pixels that touch at a corner.
        const [left, right] = ahead(at, x, y, way);
        const next = left ? (way + 3) % 4 : right ? way : (way + 1) % 4;
        if (next !== way) corners.push(x, y);
        way = next;
      } while (x !== column || y !== row || way !== RIGHT);
      cornersLeft -= corners.length / 2;
      if (cornersLeft < 0) return [];
      found.push(corners);
    }
  }
  return found;
}

function ahead(at: (x: number, y: number) => boolean, x: number, y: number, way: number): [boolean, boolean] {
  if (way === RIGHT) return [at(x, y - 1), at(x, y)];
  if (way === DOWN) return [at(x, y), at(x - 1, y)];
  if (way === LEFT) return [at(x - 1, y), at(x - 1, y - 1)];
  return [at(x - 1, y - 1), at(x, y - 1)];
}
