// The one sheet with all keys.

import { GROUPS } from "../keys";
import { h, iconButton } from "./dom";

export function helpSheet(): HTMLDialogElement {
  const row = (keys: HTMLElement, what: string) => h("div", { class: "help-row" }, keys, h("span", {}, what));
  const sheet = h(
    "dialog",
    { class: "sheet", "aria-label": "All keys" },
    h("header", {}, h("h2", {}, "All keys"), iconButton("close", "Close (Esc)", () => sheet.close())),
    h(
      "div",
      { class: "help-columns" },
      ...GROUPS.map(({ title, bindings, hands = [] }) =>
        h(
          "section",
          {},
          h("h3", {}, title),
          ...hands.map(([gesture, what]) => row(h("span", { class: "gesture" }, gesture), what)),
          ...bindings
            .filter(({ what }) => what)
            .map(({ shown, what }) => row(h("span", { class: "keys" }, ...shown!.split(" ").map((key) => h("kbd", {}, key))), what!)),
        ),
      ),
    ),
  );
  sheet.addEventListener("click", (event) => {
    if (event.target === sheet) sheet.close();
  });
  return sheet;
}
