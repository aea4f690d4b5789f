// The sheet with all images of the folder: how far each is, who has it, and the way there; figures and downloads.

import type { Api, ServerImage, ServerStats } from "../api";
import { h, icon, iconButton, openSheet, replaceChanged } from "./dom";

export interface OverviewActions {
  open(id: number): void;
  /** The list anew, for others work on it too. */
  refresh(): Promise<void>;
}

type Filter = "all" | "open" | "done";

const FILTERS: readonly [Filter, string][] = [["all", "All"], ["open", "Open"], ["done", "Done"]];

export class Overview {
  readonly element: HTMLDialogElement;
  private readonly tiles = h("div", { class: "tiles" });
  private readonly figures = h("p", { class: "figures" });
  private readonly filters = new Map<Filter, HTMLButtonElement>();
  private filter: Filter = "all";
  private images: readonly ServerImage[] = [];
  private present: number | null = null;

  constructor(
    private readonly api: Api,
    private readonly actions: OverviewActions,
  ) {
    for (const [filter, text] of FILTERS) {
      this.filters.set(filter, h("button", { type: "button", class: "segment", "data-filter": filter, onclick: () => this.choose(filter) }, text));
    }
    const download = (format: string, text: string) =>
      h("a", { class: "button", href: api.url(`export?format=${format}`), download: "", title: `Every accepted mask as ${text}` }, icon("download"), text);
    this.element = h(
      "dialog",
      { class: "sheet overview", "aria-label": "All images", tabindex: -1 },
      h("header", {}, h("h2", {}, "All images"), h("div", { class: "segments" }, ...this.filters.values()), iconButton("close", "Close (Esc)", () => this.element.close())),
      this.tiles,
      h("footer", {}, this.figures, download("sa1b", "SA-1B"), download("coco", "COCO")),
    );
    this.element.addEventListener("click", (event) => {
      if (event.target === this.element) this.element.close();
    });
  }

  toggle(): void {
    if (this.element.open) {
      this.element.close();
      return;
    }
    openSheet(this.element);
    this.tiles.querySelector(".is-present")?.scrollIntoView({ block: "center" });
    void this.actions.refresh().catch(() => {});
    this.api.stats().then(
      (stats) => (this.figures.textContent = figuresOf(stats)),
      () => (this.figures.textContent = ""),
    );
  }

  render(images: readonly ServerImage[], present: number | null): void {
    this.images = images;
    this.present = present;
    if (this.element.open) this.draw();
  }

  private choose(filter: Filter): void {
    this.filter = filter;
    this.draw();
  }

  private draw(): void {
    const of = (filter: Filter) => this.images.filter(({ state }) => filter === "all" || (filter === "done") === (state === "done"));
    for (const [filter, text] of FILTERS) {
      const button = this.filters.get(filter)!;
      button.setAttribute("aria-pressed", String(filter === this.filter));
      button.textContent = `${text} ${of(filter).length}`;
    }
    replaceChanged(this.tiles, of(this.filter).map((image) => this.tile(image)));
  }

  private tile(image: ServerImage): HTMLElement {
    const { id, file_name, state, masks, proposed, lease, problem } = image;
    const facts = [masks && `${masks} ${masks === 1 ? "mask" : "masks"}`, proposed && `${proposed} to check`, lease && !lease.mine && lease.holder];
    return h(
      "button",
      {
        type: "button",
        class: id === this.present ? "tile is-present" : "tile",
        "data-id": id,
        "data-state": state,
        title: problem ?? file_name,
        disabled: state === "broken",
        onclick: () => {
          this.element.close();
          this.actions.open(id);
        },
      },
      h("img", { src: state === "broken" ? null : this.api.url(`images/${id}/picture?max_side=320`), loading: "lazy", decoding: "async", alt: "" }),
      state === "done" && h("span", { class: "badge" }, icon("check")),
      h("span", { class: "tile-name" }, file_name),
      h("span", { class: "facts" }, problem ?? (facts.filter(Boolean).join(", ") || "No masks yet")),
    );
  }
}

function figuresOf({ total }: ServerStats): string {
  if (!total.masks) return "No masks yet.";
  const figures = [
    `${total.masks} ${total.masks === 1 ? "mask" : "masks"} on ${total.images} ${total.images === 1 ? "image" : "images"}`,
    total.seconds_per_mask !== null && `${total.seconds_per_mask.toFixed(1)} s`,
    total.clicks_per_mask !== null && `${total.clicks_per_mask.toFixed(1)} clicks a mask`,
  ];
  return figures.filter(Boolean).join(", ");
}
