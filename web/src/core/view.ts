// Where the image lies on the screen: screen = image * scale + offset, in CSS pixels of the canvas.

export interface View {
  readonly scale: number;
  readonly x: number;
  readonly y: number;
}

export interface Size {
  readonly width: number;
  readonly height: number;
}

export interface Point {
  readonly x: number;
  readonly y: number;
}

const MAX_SCALE = 48; // a pixel as large as a finger

/** The whole image in the middle, never enlarged more than twice. */
export function fitView(image: Size, canvas: Size, margin: number): View {
  const scale = Math.min(
    Math.max(canvas.width - 2 * margin, 16) / image.width,
    Math.max(canvas.height - 2 * margin, 16) / image.height,
    2,
  );
  return { scale, x: (canvas.width - image.width * scale) / 2, y: (canvas.height - image.height * scale) / 2 };
}

export function toImage(view: View, point: Point): Point {
  return { x: (point.x - view.x) / view.scale, y: (point.y - view.y) / view.scale };
}

export function toScreen(view: View, point: Point): Point {
  return { x: point.x * view.scale + view.x, y: point.y * view.scale + view.y };
}

export function panned(view: View, dx: number, dy: number): View {
  return { ...view, x: view.x + dx, y: view.y + dy };
}

/** Zoomed so that what lies under `at` stays there. */
export function zoomedAt(view: View, at: Point, factor: number, image: Size, canvas: Size): View {
  const least = Math.min(fitView(image, canvas, 0).scale / 2, 1);
  const scale = Math.min(Math.max(view.scale * factor, least), MAX_SCALE);
  const ratio = scale / view.scale;
  return { scale, x: at.x - (at.x - view.x) * ratio, y: at.y - (at.y - view.y) * ratio };
}

/** Moved back so far that a part of the image stays on the canvas. */
export function keptInSight(view: View, image: Size, canvas: Size): View {
  const margin = 64;
  const clamp = (value: number, low: number, high: number) => Math.min(Math.max(value, low), high);
  return {
    scale: view.scale,
    x: clamp(view.x, margin - image.width * view.scale, canvas.width - margin),
    y: clamp(view.y, margin - image.height * view.scale, canvas.height - margin),
  };
}

/** Two fingers: what was between them stays between them, their distance is the zoom. */
export function pinched(view: View, before: [Point, Point], after: [Point, Point], image: Size, canvas: Size): View {
  const middle = ([a, b]: [Point, Point]) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
  const distance = ([a, b]: [Point, Point]) => Math.max(Math.hypot(a.x - b.x, a.y - b.y), 1);
  const from = middle(before);
  const to = middle(after);
  return zoomedAt(panned(view, to.x - from.x, to.y - from.y), to, distance(after) / distance(before), image, canvas);
}
