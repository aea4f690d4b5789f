// The one sheet with all keys.

import { GROUPS } from "../keys";
import { h, iconButton } from "./dom";

export function helpSheet(): HTMLDialogElement {
  const row = (what: string, keys: HTMLElement) => h("div", { class: "help-row" }, h("span", {}, what), keys);
  const sheet = h(
    "dialog",
    { class: "sheet", "aria-label": "All keys", tabindex: -1 },
    h("header", {}, h("h2", {}, "All keys"), iconButton("close", "Close (Esc)", () => sheet.close())),
    h(
      "div",
      { class: "help-columns" },
      ...GROUPS.map(({ title, bindings, hands = [] }) =>
        h(
          "section",
          {},
          h("h3", {}, title),
          ...hands.map(([gesture, what]) => row(what, h("span", { class: "gesture" }, gesture))),
          ...bindings
            .filter(({ what }) => what)
            .map(({ shown, what }) => row(what!, h("span", { class: "keys" }, ...shown!.split(" ").map((key) => h("kbd", {}, key))))),
        ),
      ),
    ),
  );
  sheet.addEventListener("click", (event) => {
    if (event.target === sheet) sheet.close();
  });
  return sheet;
}
