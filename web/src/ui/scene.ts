// The picture and everything on it, on two canvases: `back` changes with masks and zoom, `front` with every move of the hand.

import { fitView, keptInSight, toImage, toScreen, type Point, type Size, type View } from "../core/view";
import type { BoxXYXY, Step } from "../core/prompt";
import type { Mask } from "../core/mask";
import type { Ring } from "../core/outline";
import { pathOf, tintOf, type Rgb } from "./shape";

export interface SceneMask {
  readonly id: string;
  readonly mask: Mask;
  readonly colour: Rgb;
  readonly isProposed: boolean;
}

export interface Front {
  draft: Mask | null;
  steps: readonly Step[];
  preview: Mask | null;
  /** A box or a lasso while it is drawn. */
  box: BoxXYXY | null;
  lasso: readonly Point[] | null;
  /** The draft's outline as polygons with corners to move. */
  rings: readonly Ring[] | null;
  /** A stroke while it is painted takes the place of the draft. */
  stroke: { picture: OffscreenCanvas; isErasing: boolean } | null;
  /** The brush under the pointer. */
  brush: { at: Point; diameter: number } | null;
}

export const DRAFT_RGB: Rgb = [64, 156, 255];
const ADD = "#1f7ae8";
const MARGIN = 20;
const BAR_HEIGHT = 100;
const TAKE_AWAY = "#e5484d";

export class Scene {
  view: View = { scale: 1, x: 0, y: 0 };
  image: Size = { width: 1, height: 1 };
  masks: readonly SceneMask[] = [];
  /** The mask that is selected or pointed at in the list. */
  emphasised: string | null = null;
  areMasksShown = true;
  readonly front: Front = { draft: null, steps: [], preview: null, box: null, lasso: null, rings: null, stroke: null, brush: null };

  /** The picture, and the picture at a half, a quarter, ... of its size: drawn small from those it is quick and smooth. */
  private levels: ImageBitmap[] = [];
  private readonly back: CanvasRenderingContext2D;
  private readonly over: CanvasRenderingContext2D;
  private frame = 0;
  private isBackDue = false;
  private isFitted = true;
  /** What the front canvas shows; empty where that is not known. */
  private shown: readonly unknown[] = [];

  constructor(
    private readonly host: HTMLElement,
    backCanvas: HTMLCanvasElement,
    frontCanvas: HTMLCanvasElement,
  ) {
    this.back = backCanvas.getContext("2d", { alpha: true })!;
    this.over = frontCanvas.getContext("2d")!;
    new ResizeObserver(() => this.resize()).observe(host);
    this.resize();
  }

  get size(): Size {
    return { width: this.host.clientWidth, height: this.host.clientHeight };
  }

  /** Pixels of the screen to one of the image. */
  get scale(): number {
    return this.view.scale * devicePixelRatio;
  }

  /** Above the bar, which would hide the picture's foot. */
  private get freeSize(): Size {
    return { width: this.host.clientWidth, height: this.host.clientHeight - BAR_HEIGHT };
  }

  setPicture(picture: ImageBitmap | null, image: Size): void {
    for (const level of this.levels) level.close();
    this.levels = picture ? [picture] : [];
    this.image = image;
    this.fit();
    if (picture) void this.addLevels(picture);
  }

  private async addLevels(picture: ImageBitmap): Promise<void> {
    for (let level = picture; Math.max(level.width, level.height) > 1024; ) {
      const [resizeWidth, resizeHeight] = [Math.ceil(level.width / 2), Math.ceil(level.height / 2)];
      level = await createImageBitmap(level, { resizeWidth, resizeHeight, resizeQuality: "medium" });
      if (this.levels[0] !== picture) return;
      this.levels.push(level);
    }
    this.redraw();
  }

  /** The smallest level that still has a pixel for each of the screen's. */
  private level(): ImageBitmap | undefined {
    const needed = this.image.width * this.view.scale * devicePixelRatio;
    return this.levels.findLast(({ width }) => width >= needed) ?? this.levels[0];
  }

  /** The accepted and proposed masks; nothing is drawn again where they are the same. */
  setMasks(masks: readonly SceneMask[], emphasised: string | null): void {
    const isSame =
      emphasised === this.emphasised &&
      masks.length === this.masks.length &&
      masks.every(({ mask, isProposed }, index) => mask === this.masks[index].mask && isProposed === this.masks[index].isProposed);
    this.masks = masks;
    this.emphasised = emphasised;
    if (!isSame) this.redraw();
  }

  fit(): void {
    this.view = fitView(this.image, this.freeSize, MARGIN);
    this.isFitted = true;
    this.redraw();
  }

  setView(view: View): void {
    this.view = keptInSight(view, this.image, this.size);
    this.isFitted = false;
    this.redraw();
  }

  toImage(point: Point): Point {
    return toImage(this.view, point);
  }

  private resize(): void {
    const { width, height } = this.size;
    for (const { canvas } of [this.back, this.over]) {
      canvas.width = Math.round(width * devicePixelRatio);
      canvas.height = Math.round(height * devicePixelRatio);
    }
    this.shown = [];
    if (this.isFitted) this.view = fitView(this.image, this.freeSize, MARGIN);
    this.drawBack();
    this.drawFront();
  }

  /** Draw all before the next frame. */
  redraw(): void {
    this.isBackDue = true;
    this.redrawFront();
  }

  redrawFront(): void {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (this.isBackDue) this.drawBack();
      this.drawFront();
    });
  }

  private prepare(context: CanvasRenderingContext2D): void {
    const { scale, x, y } = this.view;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    context.setTransform(devicePixelRatio * scale, 0, 0, devicePixelRatio * scale, devicePixelRatio * x, devicePixelRatio * y);
    // Pixels are seen as they are where one is larger than three of the screen's.
    context.imageSmoothingEnabled = scale < 3;
  }

  private drawBack(): void {
    this.isBackDue = false;
    const context = this.back;
    this.prepare(context);
    const picture = this.level();
    if (picture) context.drawImage(picture, 0, 0, this.image.width, this.image.height);
    if (!this.areMasksShown) return;
    for (const mask of this.masks) {
      const isEmphasised = mask.id === this.emphasised;
      this.drawArea(context, mask.mask, mask.colour, isEmphasised ? 0.46 : mask.isProposed ? 0.16 : 0.34);
      if (isEmphasised) this.drawOutline(context, mask.mask, "#fff", 2);
      else this.drawOutline(context, mask.mask, `rgb(${mask.colour.join()})`, 1.25, mask.isProposed);
    }
  }

  /** All that the front canvas shows. A stroke's picture changes in place, a lasso grows. */
  private toShow(): unknown[] {
    const { draft, preview, box, lasso, rings, brush, steps } = this.front;
    const places = steps.map((step) => (step.kind === "box" ? step.box.join() : `${step.x} ${step.y} ${step.label}`));
    return [this.view, draft, preview, box, lasso?.length, rings, brush, ...places];
  }

  /** Drawn at once, not at the next frame, where an answer came in; not again where nothing has changed. */
  drawFront(): void {
    const context = this.over;
    const { front } = this;
    const toShow = this.toShow();
    if (!front.stroke && toShow.length === this.shown.length && toShow.every((what, index) => what === this.shown[index])) return;
    this.shown = front.stroke ? [] : toShow;
    this.prepare(context);
    if (front.stroke) {
      context.globalAlpha = 0.5;
      context.drawImage(front.stroke.picture, 0, 0);
      context.globalAlpha = 1;
    } else if (front.draft) {
      this.drawArea(context, front.draft, DRAFT_RGB, 0.42);
      this.drawOutline(context, front.draft, "rgb(8 20 40 / 55%)", 3.5);
      this.drawOutline(context, front.draft, "#cfe6ff", 1.5);
    }
    if (front.preview) {
      this.drawArea(context, front.preview, [255, 255, 255], 0.26);
      this.drawOutline(context, front.preview, "rgb(0 0 0 / 45%)", 2.5);
      this.drawOutline(context, front.preview, "#fff", 1);
    }
    this.drawHand(context);
  }

  /** Filled along the outline, which is quicker than a picture of the mask; that is for masks with too many corners. */
  private drawArea(context: CanvasRenderingContext2D, mask: Mask, colour: Rgb, alpha: number): void {
    const path = this.pathOf(mask);
    context.globalAlpha = alpha;
    context.fillStyle = `rgb(${colour.join()})`;
    const tint = path ? null : tintOf(mask, colour);
    if (path) context.fill(path);
    else if (tint) context.drawImage(tint, mask.x, mask.y);
    context.globalAlpha = 1;
  }

  private pathOf(mask: Mask): Path2D | null {
    return pathOf(mask, this.scale);
  }

  private drawOutline(context: CanvasRenderingContext2D, mask: Mask, colour: string, width: number, isDashed = false): void {
    const path = this.pathOf(mask);
    if (!path) return;
    context.strokeStyle = colour;
    context.lineWidth = width / this.view.scale;
    if (isDashed) context.setLineDash([6 / this.view.scale, 4 / this.view.scale]);
    context.stroke(path);
    if (isDashed) context.setLineDash([]);
  }

  /** Prompts and tools, in screen pixels, whatever the zoom. */
  private drawHand(context: CanvasRenderingContext2D): void {
    const { front, view } = this;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    for (const step of front.steps) if (step.kind === "box") this.drawBox(context, step.box);
    if (front.box) this.drawBox(context, front.box);
    if (front.lasso?.length) {
      context.beginPath();
      for (const point of front.lasso.map((place) => toScreen(view, place))) context.lineTo(point.x, point.y);
      this.strokeTwice(context);
    }
    for (const { points } of front.rings ?? []) this.drawRing(context, points);
    for (const step of front.steps) {
      if (step.kind === "point") drawPoint(context, toScreen(view, step), step.label === 1);
    }
    if (front.brush) {
      const { x, y } = toScreen(view, front.brush.at);
      context.beginPath();
      context.arc(x, y, Math.max((front.brush.diameter * view.scale) / 2, 1.5), 0, 2 * Math.PI);
      this.strokeTwice(context);
    }
  }

  private drawBox(context: CanvasRenderingContext2D, [x0, y0, x1, y1]: BoxXYXY): void {
    const from = toScreen(this.view, { x: x0, y: y0 });
    const to = toScreen(this.view, { x: x1, y: y1 });
    context.beginPath();
    context.rect(from.x, from.y, to.x - from.x, to.y - from.y);
    this.strokeTwice(context);
  }

  private drawRing(context: CanvasRenderingContext2D, points: readonly Point[]): void {
    const places = points.map((point) => toScreen(this.view, point));
    context.beginPath();
    for (const { x, y } of places) context.lineTo(x, y);
    context.closePath();
    this.strokeTwice(context);
    context.fillStyle = "#fff";
    context.strokeStyle = ADD;
    context.lineWidth = 1.5;
    for (const { x, y } of places) {
      context.beginPath();
      context.rect(x - 3.5, y - 3.5, 7, 7);
      context.fill();
      context.stroke();
    }
  }

  /** A light line on a dark one is seen on every picture. */
  private strokeTwice(context: CanvasRenderingContext2D): void {
    context.lineWidth = 3;
    context.strokeStyle = "rgb(0 0 0 / 55%)";
    context.stroke();
    context.lineWidth = 1.25;
    context.strokeStyle = "#fff";
    context.stroke();
  }
}

function drawPoint(context: CanvasRenderingContext2D, { x, y }: Point, isAdding: boolean): void {
  context.beginPath();
  context.arc(x, y, 7, 0, 2 * Math.PI);
  context.fillStyle = isAdding ? ADD : TAKE_AWAY;
  context.shadowColor = "rgb(0 0 0 / 50%)";
  context.shadowBlur = 3;
  context.fill();
  context.shadowBlur = 0;
  context.shadowColor = "transparent";
  context.lineWidth = 1.5;
  context.strokeStyle = "#fff";
  context.stroke();
  context.beginPath();
  context.moveTo(x - 3, y);
  context.lineTo(x + 3, y);
  if (isAdding) {
    context.moveTo(x, y - 3);
    context.lineTo(x, y + 3);
  }
  context.stroke();
}

/** Colours of masks: stable in their order, far apart for neighbours, quiet enough for a photograph. */
export function maskColour(index: number): Rgb {
  const hue = (0.08 + index * 0.618034) % 1;
  const part = (shift: number) => {
    const place = (shift + hue * 12) % 12;
    return Math.round(255 * (0.6 - 0.36 * Math.max(-1, Math.min(place - 3, 9 - place, 1))));
  };
  return [part(0), part(8), part(4)];
}
