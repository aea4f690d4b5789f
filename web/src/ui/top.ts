// The bar at the top: which image this is, who works, and how decoding and saving stand.

import type { ServerImage } from "../api";
import type { Mode } from "../decoder/decoder";
import type { SyncState } from "../sync";
import { theme } from "../theme";
import { h, icon, iconButton } from "./dom";

export interface TopActions {
  previous(): void;
  next(): void;
  all(): void;
  who(): void;
  theme(): void;
  help(): void;
}

const SAVING: Record<SyncState, string> = { saved: "Saved", saving: "Saving", offline: "Server away, kept here" };
const DECODING: Record<Mode, string> = { starting: "Starting", page: "Decodes here", server: "Server decodes" };

export class Top {
  private readonly previous: HTMLButtonElement;
  private readonly theme: HTMLButtonElement;
  private readonly name = h("b", { id: "file-name" });
  private readonly position = h("span", {});
  private readonly decoding = h("span", { id: "decoding", class: "chip" });
  private readonly saving = h("span", { id: "saving", class: "chip", role: "status" });

  constructor(host: HTMLElement, annotator: string, isFixed: boolean, actions: TopActions) {
    this.previous = iconButton("left", "Previous image (←)", () => actions.previous());
    this.theme = iconButton("sun", "Dark or light (T)", () => actions.theme());
    const file = h("button", { type: "button", class: "file", title: "All images (O)", onclick: () => actions.all() }, icon("grid"), this.name, this.position);
    const who = h("button", { type: "button", id: "who", class: "who", title: "Who annotates", disabled: isFixed, onclick: () => actions.who() }, icon("person"), h("span", {}, annotator));
    host.append(
      h("span", { class: "wordmark" }, "anymask"),
      h("nav", { class: "where", "aria-label": "Images" }, this.previous, file, iconButton("right", "Next image (→)", () => actions.next())),
      h("div", { class: "status" }, this.decoding, this.saving, who, h("span", { class: "buttons" }, this.theme, iconButton("help", "All keys (?)", () => actions.help()))),
    );
  }

  render(image: ServerImage | null, position: number, total: number): void {
    this.name.textContent = image?.file_name ?? "All images";
    this.position.textContent = image && position >= 0 ? `${position + 1} of ${total}` : "";
    this.previous.disabled = position <= 0;
    this.theme.replaceChildren(icon(theme() === "dark" ? "sun" : "moon"));
  }

  renderStatus(saving: SyncState, mode: Mode, reason: string, threads: number): void {
    this.saving.dataset.state = saving;
    this.saving.textContent = SAVING[saving];
    this.decoding.dataset.state = mode;
    this.decoding.textContent = DECODING[mode];
    this.decoding.title = {
      starting: "The decoder is on its way",
      page: `Masks are decoded in this page, ${threads} ${threads === 1 ? "thread" : "threads"}`,
      server: `The server decodes: ${reason}`,
    }[mode];
  }
}
