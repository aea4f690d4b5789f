// The rail of tools on the left, with undo and redo, and the brush's size beside the bar.

import type { Session } from "../core/session";
import { h, iconButton, type IconName } from "./dom";
import { BRUSH_SIZES, type Hands } from "./hands";
import type { Tool } from "./pointer";

export const TOOLS: readonly [Tool, IconName, string][] = [
  ["add", "add", "Add, or drag a box (A)"],
  ["remove", "remove", "Take away (S)"],
  ["brush", "brush", "Brush (B)"],
  ["eraser", "eraser", "Eraser (X)"],
  ["lasso", "lasso", "Lasso (Q)"],
  ["outline", "outline", "Move corners of the outline (W)"],
  ["hand", "hand", "Move the picture (H)"],
];

export interface ToolsActions {
  undo(): void;
  redo(): void;
  fit(): void;
}

export class Tools {
  readonly brushSize: HTMLElement;
  private readonly slider = h("input", { type: "range", min: 0, max: BRUSH_SIZES.length - 1, "aria-label": "Brush size", title: "Brush size ([ and ])" });
  private readonly size = h("output", {});
  private readonly buttons = new Map<Tool, HTMLButtonElement>();
  private readonly undo: HTMLButtonElement;
  private readonly redo: HTMLButtonElement;

  constructor(
    rail: HTMLElement,
    private readonly hands: Hands,
    actions: ToolsActions,
  ) {
    for (const [tool, name, title] of TOOLS) this.buttons.set(tool, iconButton(name, title, () => hands.setTool(tool), { "data-tool": tool }));
    this.undo = iconButton("undo", "Undo (Z)", () => actions.undo());
    this.redo = iconButton("redo", "Redo (Shift Z)", () => actions.redo());
    rail.append(...this.buttons.values(), h("hr"), this.undo, this.redo, h("hr"), iconButton("fit", "Whole picture (F)", () => actions.fit()));
    this.slider.addEventListener("input", () => hands.setBrushStep(Number(this.slider.value)));
    this.brushSize = h("div", { class: "brush-size", hidden: true }, this.slider, this.size);
  }

  render(session: Session): void {
    const { chosen, brushSize, brushStep } = this.hands;
    for (const [tool, button] of this.buttons) button.setAttribute("aria-pressed", String(tool === chosen));
    this.brushSize.hidden = chosen !== "brush" && chosen !== "eraser";
    this.slider.value = String(brushStep);
    this.size.textContent = `${brushSize} px`;
    this.undo.disabled = !session.past.length;
    this.redo.disabled = !session.future.length;
  }
}
