// The list of masks on the right.

import type { Annotation } from "../core/session";
import { h, iconButton } from "./dom";

export interface PanelActions {
  select(id: string): void;
  point(id: string | null): void;
  edit(id: string): void;
  hide(id: string): void;
  remove(id: string): void;
  take(id: string): void;
  takeAll(): void;
  relabel(id: string, label: string): void;
  thumbnail(canvas: HTMLCanvasElement, annotation: Annotation): void;
}

interface Row {
  annotation: Annotation;
  number: number;
  element: HTMLElement;
}

export class Panel {
  readonly element = h("div", { class: "masks", role: "list", "aria-label": "Masks" });
  private rows = new Map<string, Row>();
  private picture: unknown = null;
  // The same elements at every drawing, so that a list that did not change is left where it is.
  private readonly proposedCount = h("span", {});
  private readonly proposedHeading = h(
    "div",
    { class: "group" },
    this.proposedCount,
    h("button", { type: "button", class: "text-button", onclick: () => this.actions.takeAll() }, "Accept all"),
  );
  private readonly acceptedHeading = h("div", { class: "group" }, h("span", {}, "Accepted"));
  private readonly nothing = h("p", { class: "empty" }, "No masks yet. Accepted masks are listed here.");

  constructor(private readonly actions: PanelActions) {}

  /** Rows whose mask did not change stay as they are. `picture` is what the thumbnails show. */
  render(annotations: readonly Annotation[], selected: string | null, picture: unknown): void {
    const rows = new Map<string, Row>();
    annotations.forEach((annotation, index) => {
      const before = this.picture === picture ? this.rows.get(annotation.id) : undefined;
      const isSame = before?.annotation === annotation && before.number === index + 1;
      const row = isSame ? before : { annotation, number: index + 1, element: this.rowOf(annotation, index + 1) };
      row.element.classList.toggle("is-selected", annotation.id === selected);
      rows.set(annotation.id, row);
    });
    this.rows = rows;
    this.picture = picture;
    const proposed = annotations.filter(({ status }) => status === "proposed");
    const accepted = annotations.filter(({ status }) => status === "accepted");
    const elements = (some: readonly Annotation[]) => some.map(({ id }) => rows.get(id)!.element).reverse();
    const children: HTMLElement[] = [];
    if (proposed.length) {
      this.proposedCount.textContent = `Proposed, ${proposed.length} to check`;
      children.push(this.proposedHeading, ...elements(proposed));
      if (accepted.length) children.push(this.acceptedHeading);
    }
    children.push(...elements(accepted));
    if (!children.length) children.push(this.nothing);
    const isSame = children.length === this.element.childElementCount && children.every((child, index) => child === this.element.children[index]);
    if (!isSame) this.element.replaceChildren(...children);
    if (selected) rows.get(selected)?.element.scrollIntoView({ block: "nearest" });
  }

  private rowOf(annotation: Annotation, number: number): HTMLElement {
    const { id, label, score, hidden, status } = annotation;
    const canvas = h("canvas", { width: 88, height: 88, class: "thumbnail" });
    this.actions.thumbnail(canvas, annotation);
    const name = h("button", { type: "button", class: label ? "name" : "name is-unnamed", title: "Label (L)" }, label || `Mask ${number}`);
    name.addEventListener("dblclick", () => this.askLabel(annotation, name));
    const facts = [status === "proposed" ? "proposed" : "", score === null ? "" : `${Math.round(score * 100)} % sure`, hidden ? "hidden" : ""];
    const row = h(
      "div",
      { class: `mask${hidden ? " is-hidden" : ""}`, role: "listitem", "data-id": id, "data-status": status },
      canvas,
      h("div", { class: "mask-text" }, name, h("span", { class: "facts" }, facts.filter(Boolean).join(", "))),
      h(
        "div",
        { class: "mask-actions" },
        status === "proposed" && iconButton("check", "Accept (Enter)", () => this.actions.take(id)),
        iconButton("edit", "Edit (E)", () => this.actions.edit(id)),
        iconButton(hidden ? "closed" : "eye", hidden ? "Show (M)" : "Hide (M)", () => this.actions.hide(id)),
        iconButton("trash", "Delete (Del)", () => this.actions.remove(id)),
      ),
    );
    // A click selects and leaves the keys with the picture: a focused button would take the next Enter for itself.
    row.addEventListener("mousedown", (event) => {
      if (!(event.target as Element).closest("input")) event.preventDefault();
    });
    row.addEventListener("click", (event) => {
      if (!(event.target as Element).closest(".mask-actions, input")) this.actions.select(id);
    });
    row.addEventListener("dblclick", (event) => {
      if (!(event.target as Element).closest("button, input")) this.actions.edit(id);
    });
    row.addEventListener("pointerenter", () => this.actions.point(id));
    row.addEventListener("pointerleave", () => this.actions.point(null));
    return row;
  }

  /** Let the selected mask's label be typed in its row. */
  askLabelOf(id: string): void {
    const row = this.rows.get(id);
    const name = row?.element.querySelector<HTMLElement>(".name");
    if (row && name) this.askLabel(row.annotation, name);
  }

  private askLabel(annotation: Annotation, name: HTMLElement): void {
    const input = h("input", { class: "name-input", value: annotation.label, list: "labels", maxlength: 100, "aria-label": "Label" });
    let isOver = false;
    const finish = (isKept: boolean) => {
      if (isOver) return;
      isOver = true;
      input.replaceWith(name);
      if (isKept) this.actions.relabel(annotation.id, input.value.trim());
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
    });
    input.addEventListener("blur", () => finish(true));
    name.replaceWith(input);
    input.focus();
    input.select();
  }
}

