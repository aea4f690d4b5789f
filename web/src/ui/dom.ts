// Elements without a framework.

type Child = Node | string | null | undefined | false;
type Props = Record<string, unknown>;

/** An element with attributes; `on...` functions are listeners, `class` and `data-...` are as in HTML. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2).toLowerCase(), value as EventListener);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false));
  return element;
}

/** Drawn on a 20 x 20 grid, in the colour of the text. */
const ICONS = {
  add: "M4 3l5 13 2-5 5-2z|M15 2v4M13 4h4",
  remove: "M4 3l5 13 2-5 5-2z|M13 4h4",
  brush: "M17 3c-4 2-7 5-8.500 8|M8.500 11c-2 0-3 1.200-3.200 3-.1 1-.8 1.600-1.800 2 1 .7 2.300 1 3.500 1 2.500 0 4-1.600 4-3.500 0-1.400-1-2.500-2.500-2.500z",
  eraser: "M7 16l-4-4a1.500 1.500 0 0 1 0-2l7-7a1.500 1.500 0 0 1 2 0l4.500 4.500a1.500 1.500 0 0 1 0 2L10 16zM6.500 6.500l6.500 6.500|M7 16.500h10",
  lasso: "M10 3c4 0 7 2 7 4.500S14 12 10 12s-7-2-7-4.500S6 3 10 3z|M6 11.500c-1 .8-1 2.300.4 2.800 1.200.4 1 2-.6 2.700",
  outline: "M5.800 5.200l8.400 1.600M15.400 8.200l-1.800 6.100M11.800 15l-6.300-3M4.300 9.800l.1-3.300|M3 3.500h2.800v2.800H3zM14.200 5.500H17v2.800h-2.800zM11.800 14.300h2.800v2.800h-2.800zM2.800 9.800h2.800v2.800H2.800z",
  hand: "M10 2.500v15M2.500 10h15|M8 4.500l2-2 2 2M8 15.500l2 2 2-2M4.500 8l-2 2 2 2M15.500 8l2 2-2 2",
  undo: "M7 4L3.500 7.500 7 11|M3.500 7.500H12a4.500 4.500 0 0 1 0 9H8",
  redo: "M13 4l3.500 3.500L13 11|M16.500 7.500H8a4.500 4.500 0 0 0 0 9h4",
  fit: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4",
  left: "M12 4l-6 6 6 6",
  right: "M8 4l6 6-6 6",
  eye: "M2 10c2-3.500 4.700-5.200 8-5.200s6 1.700 8 5.200c-2 3.500-4.700 5.200-8 5.200S4 13.500 2 10z|M10 7.600a2.400 2.400 0 1 0 0 4.800 2.400 2.400 0 0 0 0-4.800z",
  closed: "M2.500 8.500c2 2.800 4.500 4.200 7.500 4.200s5.500-1.400 7.500-4.200|M5 11.500l-1.300 2M10 12.800v2.400M15 11.500l1.300 2",
  edit: "M13 3.500l3.500 3.500L7 16.500l-4 .5.5-4z",
  trash: "M3.500 5.500h13M8 5.500V3.500h4v2M5 5.500l.8 11h8.400l.8-11|M8.500 8.500v5M11.500 8.500v5",
  check: "M4 10.500l4 4 8-9",
  close: "M5 5l10 10M15 5L5 15",
  sun: "M10 6.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7z|M10 1.800v2M10 16.200v2M1.800 10h2M16.200 10h2M4.200 4.200l1.400 1.400M14.400 14.400l1.400 1.400M4.200 15.800l1.400-1.400M14.400 5.600l1.400-1.400",
  moon: "M16.500 11.800A7 7 0 0 1 8.200 3.500a7 7 0 1 0 8.300 8.300z",
  grid: "M3.500 3.500h5v5h-5zM11.500 3.500h5v5h-5zM3.500 11.500h5v5h-5zM11.500 11.500h5v5h-5z",
  person: "M10 3.500a3 3 0 1 0 0 6 3 3 0 0 0 0-6z|M3.800 16.500c.5-3 2.900-4.700 6.200-4.700s5.700 1.700 6.200 4.700",
  download: "M10 3v9.500M6 9l4 3.800L14 9|M3.500 16.500h13",
  help: "M7.300 7.500A2.800 2.800 0 0 1 10 5.200c1.600 0 2.800 1 2.800 2.500 0 2.200-2.800 2.200-2.800 4.100|M10 14.600v.2",
} as const;

export type IconName = keyof typeof ICONS;

export function icon(name: IconName): SVGSVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  for (const line of ICONS[name].split("|")) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", line);
    svg.append(path);
  }
  return svg;
}

/** A button with an icon; `title` is what it does, with its key. */
export function iconButton(name: IconName, title: string, onClick: () => void, props: Props = {}): HTMLButtonElement {
  return h("button", { type: "button", class: "icon-button", title, "aria-label": title, onclick: onClick, ...props }, icon(name));
}

/** Open a dialog with the focus on itself, not on the first of its buttons. */
export function openSheet(sheet: HTMLDialogElement): void {
  sheet.showModal();
  sheet.focus();
}

/**
 * Give `host` these children, but leave those that look the same: a button that is replaced between press and release gets
 * no click.
 */
export function replaceChanged(host: HTMLElement, children: readonly HTMLElement[]): void {
  children.forEach((child, index) => {
    const present = host.children[index];
    if (!present) host.append(child);
    else if (present.outerHTML !== child.outerHTML) present.replaceWith(child);
  });
  while (host.children.length > children.length) host.lastElementChild!.remove();
}
