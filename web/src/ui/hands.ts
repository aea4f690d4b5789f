// What the pointer's intentions do to the view and to the work.

import { boxBetween } from "../core/prompt";
import { panned, pinched, zoomedAt, type Point } from "../core/view";
import { maskHas, type Mask } from "../core/mask";
import type { Decoder } from "../decoder/decoder";
import type { Workbench } from "../workbench";
import type { Intentions, Tool } from "./pointer";
import type { Scene } from "./scene";
import { rememberOutline } from "./shape";
import { lassoMask, Stroke } from "./stroke";
import { Vertices, type Change } from "./vertices";

export const BRUSH_SIZES = [1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 64, 85, 113, 150, 200];

/** How near a corner of the outline must be to be taken hold of, in screen pixels. */
const CORNER_REACH = matchMedia("(pointer: coarse)").matches ? 22 : 9;

/** How long the pointer rests before a preview is asked for; longer where the decoder is slow. */
const HOVER_REST_MS = 45;

export class Hands implements Intentions {
  chosen: Tool = "add";
  brushStep = 7;
  onTool: () => void = () => {};

  private stroke: Stroke | null = null;
  private lasso: Point[] = [];
  private readonly vertices = new Vertices();
  private isTakingAway = false;
  private hoverTimer = 0;
  private isPreviewing = false;
  private pointer: Point | null = null;

  constructor(
    private readonly scene: Scene,
    private readonly bench: Workbench,
    private readonly decoder: Decoder,
    private readonly selectAt: (id: string | null) => void,
  ) {}

  tool(): Tool {
    return this.chosen;
  }

  setTool(tool: Tool): void {
    this.chosen = tool;
    this.clearPreview();
    this.showBrush();
    this.showVertices();
    this.onTool();
  }

  get brushSize(): number {
    return BRUSH_SIZES[this.brushStep];
  }

  setBrushStep(step: number): void {
    this.brushStep = Math.max(0, Math.min(step, BRUSH_SIZES.length - 1));
    this.showBrush();
    this.onTool();
  }

  private inside(at: Point): Point | null {
    const { image } = this.bench;
    const { x, y } = this.scene.toImage(at);
    if (!image || x < 0 || y < 0 || x >= image.width || y >= image.height) return null;
    return { x: Math.round(x * 100) / 100, y: Math.round(y * 100) / 100 };
  }

  press(at: Point, isTakingAway: boolean, begun: number): void {
    const place = this.inside(at);
    this.clearPreview();
    if (place) this.bench.press(place.x, place.y, isTakingAway ? 0 : 1, begun);
  }

  withdraw(): void {
    this.bench.withdraw();
  }

  box(from: Point, to: Point, isDone: boolean): void {
    const { image } = this.bench;
    if (!image) return;
    const box = boxBetween(this.scene.toImage(from), this.scene.toImage(to), image);
    this.scene.front.box = isDone ? null : box;
    if (isDone && box) this.bench.box(box.map((value) => Math.round(value * 100) / 100) as unknown as typeof box);
    this.scene.redrawFront();
  }

  strokeBegin(at: Point, isErasing: boolean): void {
    const { image } = this.bench;
    if (!image) return;
    this.clearPreview();
    if (this.chosen === "outline") {
      this.grabCorner(at, isErasing);
      return;
    }
    this.isTakingAway = isErasing;
    if (this.chosen === "lasso") this.lasso = [];
    else if (!isErasing || this.bench.draft) {
      this.stroke = new Stroke({ width: image.width, height: image.height }, this.bench.draftMask(), isErasing, this.brushSize);
      this.scene.front.stroke = { picture: this.stroke.picture, isErasing };
    }
    this.strokeMove(at);
  }

  strokeMove(at: Point): void {
    const place = this.scene.toImage(at);
    if (this.chosen === "outline") {
      this.vertices.drag(this.clamped(place));
      this.scene.front.rings = this.vertices.rings;
    } else if (this.chosen === "lasso") {
      this.lasso.push(place);
      this.scene.front.lasso = this.lasso;
    } else this.stroke?.to(place);
    this.scene.redrawFront();
  }

  strokeEnd(isCancelled: boolean): void {
    const { image } = this.bench;
    if (this.chosen === "outline") {
      if (image) this.change(this.vertices.drop(image, isCancelled));
      return;
    }
    const { stroke, lasso } = this;
    this.stroke = null;
    this.lasso = [];
    this.scene.front.stroke = null;
    this.scene.front.lasso = null;
    if (image && !isCancelled) {
      const area: Mask | null = lasso.length ? lassoMask(lasso, { width: image.width, height: image.height }) : (stroke?.mask() ?? null);
      const kind = lasso.length ? "polygon" : this.isTakingAway ? "eraser" : "brush";
      const size = lasso.length ? lasso.length : this.brushSize;
      if (area) this.bench.paint(this.isTakingAway ? null : area, this.isTakingAway ? area : null, kind, size);
    }
    this.scene.redrawFront();
  }

  // Corners of the outline

  /** The draft's corners, while they can be moved. */
  showVertices(): void {
    const isOutline = this.chosen === "outline";
    if (isOutline) this.vertices.follow(this.bench.draftMask(), this.scene.view.scale);
    this.scene.front.rings = isOutline ? this.vertices.rings : null;
    this.scene.redrawFront();
  }

  /** Without a mask in hand, the one under the pointer is taken up. */
  private grabCorner(at: Point, isTakingAway: boolean): void {
    const { image, draft } = this.bench;
    const place = this.scene.toImage(at);
    const reach = CORNER_REACH / this.scene.view.scale;
    if (!image) return;
    if (!draft) this.select(at, (id) => id !== null && this.bench.edit(id));
    else if (isTakingAway) this.change(this.vertices.remove(place, reach, image));
    else if (this.vertices.grab(place, reach)) this.showVertices();
  }

  private change(change: Change | null): void {
    if (change?.added || change?.erased) this.bench.paint(change.added, change.erased, "polygon", 1);
    this.showVertices();
  }

  private clamped({ x, y }: Point): Point {
    const { width, height } = this.scene.image;
    return { x: Math.max(0, Math.min(x, width)), y: Math.max(0, Math.min(y, height)) };
  }

  hover(at: Point | null): void {
    this.pointer = at;
    this.showBrush();
    clearTimeout(this.hoverTimer);
    const place = at && this.inside(at);
    const { preview } = this.scene.front;
    if (preview && (!place || !maskHas(preview, Math.floor(place.x), Math.floor(place.y)))) this.clearPreview();
    if (!place || !this.canPreview()) return;
    const rest = Math.max(HOVER_REST_MS, this.decoder.latestMs);
    this.hoverTimer = window.setTimeout(() => void this.preview(place), rest);
  }

  private canPreview(): boolean {
    return this.chosen === "add" && this.bench.draft === null && this.decoder.mode === "page" && !this.scene.front.box;
  }

  /** Show what a click here would give. */
  private async preview({ x, y }: Point): Promise<void> {
    const { image } = this.bench;
    if (!image || this.isPreviewing || !this.canPreview()) return;
    this.isPreviewing = true;
    try {
      const steps = [{ kind: "point", x, y, label: 1, token: -1 } as const];
      const { mask, outline } = await this.decoder.preview({ imageId: image.id, base: null, steps });
      if (this.bench.image === image && this.canPreview() && this.pointer) {
        if (outline) rememberOutline(mask, outline);
        this.scene.front.preview = mask;
        this.scene.redrawFront();
      }
    } catch {
      // A preview that fails is no preview; the click will say why.
    }
    this.isPreviewing = false;
  }

  clearPreview(): void {
    clearTimeout(this.hoverTimer);
    if (!this.scene.front.preview) return;
    this.scene.front.preview = null;
    this.scene.redrawFront();
  }

  private showBrush(): void {
    const isBrush = this.chosen === "brush" || this.chosen === "eraser";
    const brush = isBrush && this.pointer ? { at: this.scene.toImage(this.pointer), diameter: this.brushSize } : null;
    if (brush || this.scene.front.brush) this.scene.redrawFront();
    this.scene.front.brush = brush;
  }

  pan(dx: number, dy: number): void {
    this.scene.setView(panned(this.scene.view, dx, dy));
  }

  zoom(at: Point, factor: number): void {
    this.scene.setView(zoomedAt(this.scene.view, at, factor, this.scene.image, this.scene.size));
    this.showBrush();
  }

  pinch(before: [Point, Point], after: [Point, Point]): void {
    this.scene.setView(pinched(this.scene.view, before, after, this.scene.image, this.scene.size));
  }

  /** The smallest mask under a place is selected, or whatever `use` does with it. */
  select(at: Point, use: (id: string | null) => void = this.selectAt): void {
    const place = this.inside(at);
    if (!place) return;
    const hit = this.scene.masks
      .filter(({ mask }) => maskHas(mask, Math.floor(place.x), Math.floor(place.y)))
      .sort((a, b) => a.mask.w * a.mask.h - b.mask.w * b.mask.h);
    use(hit[0]?.id ?? null);
  }
}
