// A stroke of brush, eraser or lasso while it is drawn, pixel by pixel, and what it leaves in the draft.

import { polygonMask, strokeRuns } from "../core/brush";
import { decodeRle, encodeRle, maskArea, painted, trimmed, type Mask, type Rle } from "../core/mask";
import type { Point, Size } from "../core/view";
import { DRAFT_RGB } from "./scene";
import { tintOf } from "./shape";

/** A brush or eraser on its way. */
export class Stroke {
  /** The draft as it looks with this stroke. */
  readonly picture: OffscreenCanvas;
  private readonly context: OffscreenCanvasRenderingContext2D;
  private readonly touched: Uint8Array;
  private last: Point | null = null;

  constructor(
    private readonly image: Size,
    draft: Mask | null,
    readonly isErasing: boolean,
    readonly diameter: number,
  ) {
    this.picture = new OffscreenCanvas(image.width, image.height);
    this.context = this.picture.getContext("2d")!;
    const tint = draft && tintOf(draft, DRAFT_RGB);
    if (draft && tint) this.context.drawImage(tint, draft.x, draft.y);
    this.context.fillStyle = `rgb(${DRAFT_RGB.join()})`;
    this.touched = new Uint8Array(image.width * image.height);
  }

  to(at: Point): void {
    strokeRuns(this.last ?? at, at, this.diameter, this.image, (y, left, right) => {
      this.touched.fill(1, y * this.image.width + left, y * this.image.width + right);
      if (this.isErasing) this.context.clearRect(left, y, right - left, 1);
      else this.context.fillRect(left, y, right - left, 1);
    });
    this.last = at;
  }

  /** The pixels touched; null for none. */
  mask(): Mask | null {
    const { width, height } = this.image;
    const mask = trimmed({ width, height, x: 0, y: 0, w: width, h: height, bits: this.touched });
    return mask.w ? mask : null;
  }
}

export function lassoMask(points: readonly Point[], image: Size): Mask | null {
  const mask = polygonMask(points, image);
  return mask && trimmed(mask);
}

export interface Paint {
  readonly added: Rle | null;
  readonly erased: Rle | null;
}

/** All paint after further areas were added and erased: the later stroke counts. */
export function paintedOver(paint: Paint, added: Mask | null, erased: Mask | null): Paint {
  const over = (code: Rle | null, plus: Mask | null, minus: Mask | null) => {
    const old = code && decodeRle(code);
    const grown = old ? painted(old, plus, minus) : plus;
    return grown && codeOf(grown);
  };
  return { added: over(paint.added, added, erased), erased: over(paint.erased, erased, added) };
}

function codeOf(mask: Mask): Rle | null {
  return maskArea(mask) ? encodeRle(mask) : null;
}
