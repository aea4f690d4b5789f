// A small picture of what a mask covers.

import type { Mask } from "../core/mask";
import type { Size } from "../core/view";
import { pathOf, type Rgb } from "./shape";

/** Draw the mask's surroundings into a square canvas, the rest of the picture dimmed. */
export function drawThumbnail(canvas: HTMLCanvasElement, picture: ImageBitmap | null, image: Size, mask: Mask, colour: Rgb): void {
  const context = canvas.getContext("2d")!;
  const side = canvas.width;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, side, side);
  if (!mask.w || !mask.h) return;
  const extent = Math.max(mask.w, mask.h) * 1.25;
  const scale = side / extent;
  const path = pathOf(mask, scale);
  const left = mask.x + mask.w / 2 - extent / 2;
  const top = mask.y + mask.h / 2 - extent / 2;
  context.setTransform(scale, 0, 0, scale, -left * scale, -top * scale);
  context.imageSmoothingQuality = "high";
  if (picture) {
    // Only the part that is seen, or the whole picture would be scaled for each mask.
    const across = picture.width / image.width;
    const down = picture.height / image.height;
    const x0 = Math.max(left, 0);
    const y0 = Math.max(top, 0);
    const w = Math.min(left + extent, image.width) - x0;
    const h = Math.min(top + extent, image.height) - y0;
    context.globalAlpha = 0.45;
    context.drawImage(picture, x0 * across, y0 * down, w * across, h * down, x0, y0, w, h);
    context.globalAlpha = 1;
    context.save();
    if (path) context.clip(path);
    context.drawImage(picture, x0 * across, y0 * down, w * across, h * down, x0, y0, w, h);
    context.restore();
  }
  context.lineWidth = 2.5 / scale;
  context.lineJoin = "round";
  context.strokeStyle = `rgb(${colour.join()})`;
  if (path) context.stroke(path);
}
