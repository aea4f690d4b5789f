// Between an image's own pixels and the grid of mask logits: the same arithmetic as the Python side.

import { emptyMask, trimmed, type Mask } from "./mask";
import { Scratch } from "./scratch";

export type SizeHW = readonly [height: number, width: number];

/** How an image lies in a model's input: resized, then padded on the right and below. */
export interface Frame {
  readonly original_hw: SizeHW;
  readonly resized_hw: SizeHW;
  readonly padded_hw: SizeHW;
}

/** One mask's logits (h, w) over the padded frame, row by row. */
export interface Logits {
  readonly h: number;
  readonly w: number;
  readonly values: Float32Array;
}

/** Model pixels of a point given in original pixels. */
export function pointToModel(frame: Frame, x: number, y: number): [number, number] {
  return [
    (x * frame.resized_hw[1]) / frame.original_hw[1],
    (y * frame.resized_hw[0]) / frame.original_hw[0],
  ];
}

interface Axis {
  /** For each pixel its lower neighbour's cell, and the next one's share. */
  lower: Int32Array;
  share: Float32Array;
}

function interpolationAxis(pixels: number, cells: number, extent: number): Axis {
  const lower = new Int32Array(pixels);
  const share = new Float32Array(pixels);
  for (let index = 0; index < pixels; index++) {
    const position = Math.min(Math.max((index + 0.5) * (extent / pixels) - 0.5, 0), cells - 1);
    lower[index] = Math.min(Math.floor(position), Math.max(cells - 2, 0));
    share[index] = position - lower[index];
  }
  return { lower, share };
}

const scratch = new Scratch();

let keptAxes: { key: string; rows: Axis; columns: Axis } | null = null;

function axesOf(frame: Frame, h: number, w: number): { rows: Axis; columns: Axis } {
  const key = JSON.stringify([frame, h, w]);
  if (keptAxes?.key !== key) {
    const [height, width] = frame.original_hw;
    keptAxes = {
      key,
      rows: interpolationAxis(height, h, (frame.resized_hw[0] * h) / frame.padded_hw[0]),
      columns: interpolationAxis(width, w, (frame.resized_hw[1] * w) / frame.padded_hw[1]),
    };
  }
  return keptAxes;
}

/**
 * The mask at the image's own size: logits cropped and upsampled bilinearly, cut at 0.
 *
 * Pixels between four cells of one sign have that sign too. So a line of cells is looked at once for all pixel rows that it
 * makes, and arithmetic is only done where the outline crosses.
 */
export function logitsToMask(logits: Logits, frame: Frame): Mask {
  const [height, width] = frame.original_hw;
  const { h, w, values } = logits;
  const { rows, columns } = axesOf(frame, h, w);
  const cells = cellsAbove(logits);
  if (!cells) return emptyMask(width, height);
  const [top, bottom] = pixelsNear(rows.lower, cells.top, cells.bottom);
  const [left, right] = pixelsNear(columns.lower, cells.left, cells.right);
  if (bottom <= top || right <= left) return emptyMask(width, height);

  const { bytes: bits } = scratch.take((bottom - top) * (right - left));
  const firstCell = columns.lower[left];
  const lastCell = columns.lower[right - 1];
  // Where the pixels of each cell start; the last entry is the end.
  const starts = new Int32Array(lastCell - firstCell + 2).fill(right);
  for (let x = right - 1; x >= left; x--) starts[columns.lower[x] - firstCell] = x;
  for (let cell = starts.length - 2; cell >= 0; cell--) if (starts[cell] === right) starts[cell] = starts[cell + 1];

  for (let y = top; y < bottom; ) {
    const row = rows.lower[y];
    const upper = values.subarray(row * w, (row + 1) * w);
    const next = row + 1 < h ? values.subarray((row + 1) * w, (row + 2) * w) : upper;
    const { inside, crossed } = sortedCells(upper, next, firstCell, lastCell);
    for (; y < bottom && rows.lower[y] === row; y++) {
      const share = rows.share[y];
      const line = (y - top) * (right - left) - left;
      for (const [from, to] of inside) bits.fill(1, line + starts[from - firstCell], line + starts[to - firstCell]);
      for (const cell of crossed) {
        const beside = Math.min(cell + 1, w - 1);
        const low = Math.fround(upper[cell] + (next[cell] - upper[cell]) * share);
        const high = Math.fround(upper[beside] + (next[beside] - upper[beside]) * share);
        if (low <= 0 && high <= 0) continue;
        const to = starts[cell - firstCell + 1];
        for (let x = starts[cell - firstCell]; x < to; x++) if (low + (high - low) * columns.share[x] > 0) bits[line + x] = 1;
      }
    }
  }
  const mask = trimmed({ width, height, x: left, y: top, w: right - left, h: bottom - top, bits });
  // Scratch memory is the next call's: what is handed out is a copy, as the trimmed window is anyway.
  return mask.bits === bits ? { ...mask, bits: bits.slice() } : mask;
}

/**
 * Of the cells between two lines of logits: runs, from and to, of those whose four corners are all in the mask, and the cells
 * that have corners in and out of it.
 */
function sortedCells(upper: Float32Array, next: Float32Array, first: number, last: number): { inside: [number, number][]; crossed: number[] } {
  const inside: [number, number][] = [];
  const crossed: number[] = [];
  const above = (column: number) => Number(upper[column] > 0) + Number(next[column] > 0);
  let here = above(first);
  for (let cell = first; cell <= last; cell++) {
    const beside = cell + 1 < upper.length ? above(cell + 1) : here;
    const run = inside.at(-1);
    if (here + beside === 4) {
      if (run?.[1] === cell) run[1] = cell + 1;
      else inside.push([cell, cell + 1]);
    } else if (here + beside > 0) crossed.push(cell);
    here = beside;
  }
  return { inside, crossed };
}

function cellsAbove({ h, w, values }: Logits): { top: number; bottom: number; left: number; right: number } | null {
  let top = h;
  let bottom = -1;
  let left = w;
  let right = -1;
  for (let row = 0, at = 0; row < h; row++) {
    for (let column = 0; column < w; column++, at++) {
      if (values[at] > 0) {
        if (row < top) top = row;
        bottom = row;
        if (column < left) left = column;
        if (column > right) right = column;
      }
    }
  }
  return bottom < 0 ? null : { top, bottom, left, right };
}

/** The range of pixels whose lower cell is from `first - 1` to `last`. */
function pixelsNear(lower: Int32Array, first: number, last: number): [number, number] {
  let from = 0;
  while (from < lower.length && lower[from] < first - 1) from++;
  let to = from;
  while (to < lower.length && lower[to] <= last) to++;
  return [from, to];
}

/** How sure a rough mask is taken to be, as a logit (the Python side's `ROUGH_MASK_LOGIT`). */
const ROUGH_MASK_LOGIT = 8;

/** A mask as logits for the decoder: the share of each cell of an h x w grid over the padded frame that it covers. */
export function maskToLogits(mask: Mask, frame: Frame, h: number, w: number): Logits {
  const values = new Float32Array(h * w);
  // Cells per original pixel.
  const scaleX = (frame.resized_hw[1] / frame.original_hw[1] / frame.padded_hw[1]) * w;
  const scaleY = (frame.resized_hw[0] / frame.original_hw[0] / frame.padded_hw[0]) * h;
  const columns = overlaps(mask.x, mask.w, scaleX, w);
  const rows = overlaps(mask.y, mask.h, scaleY, h);
  const line = new Float32Array(w);
  for (let y = 0; y < mask.h; y++) {
    line.fill(0);
    for (let x = 0, at = y * mask.w; x < mask.w; x++, at++) {
      if (mask.bits[at]) for (const [cell, share] of columns[x]) line[cell] += share;
    }
    for (const [cell, share] of rows[y]) {
      for (let column = 0; column < w; column++) values[cell * w + column] += share * line[column];
    }
  }
  for (let at = 0; at < values.length; at++) values[at] = (2 * Math.min(values[at], 1) - 1) * ROUGH_MASK_LOGIT;
  return { h, w, values };
}

/** For each of `count` pixels from `start` on: the cells that it covers, and how much of each. */
function overlaps(start: number, count: number, scale: number, cells: number): [number, number][][] {
  return Array.from({ length: count }, (_, index) => {
    const from = (start + index) * scale;
    const to = from + scale;
    const covered: [number, number][] = [];
    for (let cell = Math.floor(from); cell < Math.min(to, cells); cell++) {
      const share = Math.min(to, cell + 1) - Math.max(from, cell);
      if (share > 1e-9) covered.push([cell, share]);
    }
    return covered;
  });
}
