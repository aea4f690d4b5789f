// The hand on the canvas: mouse, pen and fingers become intentions. Points are in canvas pixels.

import type { Point } from "../core/view";

export type Tool = "add" | "remove" | "brush" | "eraser" | "lasso" | "outline" | "hand";

export interface Intentions {
  tool(): Tool;
  /** A click, told when the button goes down: the answer may be there before it comes up. */
  press(at: Point, isTakingAway: boolean, begun: number): void;
  /** It was no click after all. */
  withdraw(): void;
  /** A box being drawn, or drawn. */
  box(from: Point, to: Point, isDone: boolean): void;
  /** A stroke of brush, eraser or lasso, or a corner of the outline being moved. */
  strokeBegin(at: Point, isErasing: boolean): void;
  strokeMove(at: Point): void;
  strokeEnd(isCancelled: boolean): void;
  hover(at: Point | null): void;
  /** Select what is there. */
  select(at: Point): void;
  pan(dx: number, dy: number): void;
  zoom(at: Point, factor: number): void;
  pinch(before: [Point, Point], after: [Point, Point]): void;
}

/** How far a hand may shake in a click, in pixels; fingers shake more. */
const CLICK_REACH = { mouse: 4, pen: 6, touch: 10 } as const;

type Doing =
  | { kind: "nothing" }
  | { kind: "press"; from: Point }
  | { kind: "box"; from: Point }
  | { kind: "stroke" }
  | { kind: "pan"; at: Point }
  | { kind: "pinch" };

export class Pointers {
  private doing: Doing = { kind: "nothing" };
  private readonly fingers = new Map<number, Point>();
  /** While the space bar is down every drag moves the picture. */
  private isSpaceDown = false;

  constructor(
    private readonly element: HTMLElement,
    private readonly intentions: Intentions,
  ) {
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.up(event, false));
    element.addEventListener("pointercancel", (event) => this.up(event, true));
    element.addEventListener("pointerleave", () => intentions.hover(null));
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    // Else a quick finger flings the page in Chromium's eyes, and the tap on a button that follows only stops the fling.
    element.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  }

  setSpace(isDown: boolean): void {
    this.isSpaceDown = isDown;
    this.element.classList.toggle("is-moving", isDown);
  }

  private place(event: MouseEvent): Point {
    const box = this.element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  private down(event: PointerEvent): void {
    const at = this.place(event);
    this.element.setPointerCapture(event.pointerId);
    (document.activeElement as HTMLElement | null)?.blur?.();
    if (event.pointerType === "touch") {
      this.fingers.set(event.pointerId, at);
      if (this.fingers.size === 2) {
        this.letGo(true);
        this.doing = { kind: "pinch" };
      }
    }
    if (this.doing.kind !== "nothing") return;
    const tool = this.intentions.tool();
    const isTakingAway = event.button === 2 || event.altKey;
    if (event.button === 1 || this.isSpaceDown || tool === "hand") {
      event.preventDefault();
      this.doing = { kind: "pan", at };
    } else if (event.button !== 0 && event.button !== 2) return;
    else if (event.ctrlKey || event.metaKey) this.intentions.select(at);
    else if (tool === "add" || tool === "remove") {
      this.doing = { kind: "press", from: at };
      this.intentions.press(at, isTakingAway || tool === "remove", event.timeStamp);
    } else {
      this.doing = { kind: "stroke" };
      this.intentions.strokeBegin(at, tool === "eraser" || isTakingAway);
    }
  }

  private move(event: PointerEvent): void {
    const at = this.place(event);
    const { doing } = this;
    if (doing.kind === "pinch") {
      if (!this.fingers.has(event.pointerId) || this.fingers.size !== 2) return;
      const before = [...this.fingers.values()] as [Point, Point];
      this.fingers.set(event.pointerId, at);
      this.intentions.pinch(before, [...this.fingers.values()] as [Point, Point]);
      return;
    }
    if (doing.kind === "press") {
      const reach = CLICK_REACH[event.pointerType as keyof typeof CLICK_REACH] ?? 4;
      if (Math.hypot(at.x - doing.from.x, at.y - doing.from.y) <= reach) return;
      this.intentions.withdraw();
      this.doing = { kind: "box", from: doing.from };
    }
    if (this.doing.kind === "box") this.intentions.box(this.doing.from, at, false);
    else if (doing.kind === "stroke") {
      // All places since the last frame: a quick hand paints no corners.
      const places = event.getCoalescedEvents?.() ?? [];
      for (const place of places.length ? places : [event]) this.intentions.strokeMove(this.place(place));
    } else if (doing.kind === "pan") {
      this.intentions.pan(at.x - doing.at.x, at.y - doing.at.y);
      this.doing = { kind: "pan", at };
    }
    if (event.pointerType !== "touch") this.intentions.hover(at);
  }

  private up(event: PointerEvent, isCancelled: boolean): void {
    const wasFinger = this.fingers.delete(event.pointerId);
    const { doing } = this;
    if (doing.kind === "pinch") {
      if (wasFinger && this.fingers.size === 0) this.doing = { kind: "nothing" };
      return;
    }
    if (doing.kind === "box" && !isCancelled) {
      this.doing = { kind: "nothing" };
      this.intentions.box(doing.from, this.place(event), true);
    } else this.letGo(isCancelled);
  }

  private letGo(isCancelled: boolean): void {
    const { doing } = this;
    this.doing = { kind: "nothing" };
    if (doing.kind === "press" && isCancelled) this.intentions.withdraw();
    if (doing.kind === "box") this.intentions.box(doing.from, doing.from, true);
    if (doing.kind === "stroke") this.intentions.strokeEnd(isCancelled);
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    // Lines and pages are what a mouse wheel may count in; a pinch on a touchpad comes with the control key and small steps.
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : 32;
    const speed = event.ctrlKey ? 0.01 : 0.002;
    const steps = Math.max(-120, Math.min(event.deltaY * unit, 120));
    this.intentions.zoom(this.place(event), Math.exp(-steps * speed));
  }
}
