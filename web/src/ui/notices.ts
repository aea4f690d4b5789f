// Messages over the picture: some go by themselves, some ask.

import { h, iconButton } from "./dom";

export interface Choice {
  readonly text: string;
  readonly isPrimary?: boolean;
  readonly run: () => void;
}

export class Notices {
  private readonly shown = new Map<string, HTMLElement>();

  constructor(private readonly host: HTMLElement) {}

  /** A message under a name: another one of that name takes its place. Without choices it goes after a while. */
  show(name: string, text: string, kind: "info" | "warn" | "bad" = "info", choices: readonly Choice[] = []): void {
    this.hide(name);
    const buttons = choices.map(({ text, isPrimary, run }) =>
      h(
        "button",
        {
          type: "button",
          class: isPrimary ? "button is-primary" : "button",
          onclick: () => {
            this.hide(name);
            run();
          },
        },
        text,
      ),
    );
    const close = choices.length ? null : iconButton("close", "Close", () => this.hide(name));
    const notice = h("div", { class: "notice", "data-kind": kind, "data-name": name }, h("span", {}, text), ...buttons, close);
    this.shown.set(name, notice);
    this.host.append(notice);
    if (!choices.length && kind === "info") setTimeout(() => this.shown.get(name) === notice && this.hide(name), 6000);
  }

  hide(name: string): void {
    this.shown.get(name)?.remove();
    this.shown.delete(name);
  }
}

/** A question in a dialog; resolves to what was chosen, null when it was closed. */
export function ask(title: string, text: string, options: { input?: string; yes: string; no?: string }): Promise<string | null> {
  return new Promise((resolve) => {
    const input = options.input === undefined ? null : h("input", { class: "label-input", value: options.input, maxlength: 64, "aria-label": title });
    const form = h(
      "form",
      { class: "ask", method: "dialog" },
      h("h2", {}, title),
      h("p", {}, text),
      input,
      h(
        "div",
        { class: "row" },
        h("button", { class: "button", value: "no", formnovalidate: true, type: "button", onclick: () => dialog.close("no") }, options.no ?? "Cancel"),
        h("button", { class: "button is-primary", value: "yes" }, options.yes),
      ),
    );
    const dialog = h("dialog", { class: "sheet", "aria-label": title }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? (input?.value.trim() ?? "yes") : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
