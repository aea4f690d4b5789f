import { describe, expect, it } from "vitest";
import { polygonMask } from "../src/core/brush";
import { maskArea, maskHas, painted, trimmed, type Mask } from "../src/core/mask";
import { outlines, ringsOf, simplified } from "../src/core/outline";
import { Vertices } from "../src/ui/vertices";

const IMAGE = { width: 60, height: 50 };

function maskWhere(isIn: (x: number, y: number) => boolean): Mask {
  const bits = new Uint8Array(IMAGE.width * IMAGE.height);
  for (let at = 0; at < bits.length; at++) bits[at] = Number(isIn(at % IMAGE.width, Math.floor(at / IMAGE.width)));
  return trimmed({ ...IMAGE, x: 0, y: 0, w: IMAGE.width, h: IMAGE.height, bits });
}

const inSquare = (x: number, y: number, from: number, to: number) => x >= from && y >= from && x < to && y < to;
const frame = maskWhere((x, y) => inSquare(x, y, 5, 45) && !inSquare(x, y, 20, 30));

describe("outlines as polygons", () => {
  it("tell a hole from the outside", () => {
    const rings = ringsOf(frame, 1, 4);
    expect(rings.map(({ points, isHole }) => [points.length, isHole])).toEqual([[4, false], [4, true]]);
    expect(maskArea(polygonMask(rings[0].points, IMAGE)!)).toBe(1600);
    expect(maskArea(polygonMask(rings[1].points, IMAGE)!)).toBe(100);
    expect(ringsOf(frame, 1, 200)).toHaveLength(1);
  });

  it("stay near the outline with few corners", () => {
    const disc = maskWhere((x, y) => Math.hypot(x - 29.5, y - 24.5) < 20);
    const [{ points }] = ringsOf(disc, 1.2, 4);
    expect(points.length).toBeLessThan(24);
    const area = maskArea(polygonMask(points, IMAGE)!);
    expect(Math.abs(area / maskArea(disc) - 1)).toBeLessThan(0.05);
    expect(simplified(points, 0)).toEqual(points);
  });
});

describe("outlines in larger steps", () => {
  const disc = maskWhere((x, y) => Math.hypot(x - 29.5, y - 24.5) < 20);

  it.each([2, 4, 8])("of %i pixels run around the same place", (step) => {
    const [line, ...others] = outlines(disc, step);
    expect(others).toEqual([]);
    for (let at = 0; at < line.length; at += 2) {
      const away = Math.hypot(line[at] * step + disc.x - 30, line[at + 1] * step + disc.y - 25);
      expect(Math.abs(away - 20)).toBeLessThan(1.5 * step);
    }
    expect(line.length).toBeLessThan((1.2 * outlines(disc)[0].length) / step);
  });

  it.each([2, 3, 4, 5])("of %i pixels reach the foot of a window that is no multiple", (step) => {
    const [line] = outlines({ ...IMAGE, x: 0, y: 0, w: 7, h: 9, bits: new Uint8Array(63).fill(1) }, step);
    expect(line).toHaveLength(8);
    expect(Math.max(...line)).toBe(Math.ceil(9 / step));
  });
});

describe("corners", () => {
  const held = () => {
    const vertices = new Vertices();
    vertices.follow(frame, 1);
    return vertices;
  };

  it("add and erase only what lies between the old place and the new", () => {
    const vertices = held();
    expect(vertices.grab({ x: 44, y: 46 }, 3)).toBe(true);
    vertices.drag({ x: 45, y: 35 });
    const { added, erased } = vertices.drop(IMAGE, false)!;
    expect(added).toBeNull();
    expect(maskArea(erased!)).toBe(200); // a triangle 40 wide and 10 high
    const after = painted(frame, added, erased);
    vertices.follow(after, 1);
    expect(vertices.rings[0].points).toContainEqual({ x: 45, y: 35 });
    expect(maskHas(after, 6, 43)).toBe(true);
    expect(maskHas(after, 43, 43)).toBe(false);
    expect(maskHas(after, 25, 25)).toBe(false);
  });

  it("of a hole do the contrary", () => {
    const vertices = held();
    vertices.grab({ x: 30, y: 30 }, 3);
    vertices.drag({ x: 38, y: 38 });
    const { added, erased } = vertices.drop(IMAGE, false)!;
    expect(added).toBeNull();
    expect(maskArea(erased!)).toBeGreaterThan(60);
  });

  it("are made on a line, and go back where that is cancelled", () => {
    const vertices = held();
    const before = vertices.rings;
    expect(vertices.grab({ x: 25, y: 45.5 }, 3)).toBe(true);
    expect(vertices.rings[0].points).toHaveLength(5);
    vertices.drag({ x: 25, y: 49 });
    expect(vertices.drop(IMAGE, true)).toBeNull();
    expect(vertices.rings).toEqual(before);
    expect(vertices.grab({ x: 12, y: 12 }, 3)).toBe(false);
    expect(vertices.drop(IMAGE, false)).toBeNull();
  });

  it("are taken away, the last three together", () => {
    const vertices = held();
    expect(maskArea(vertices.remove({ x: 45, y: 45 }, 3, IMAGE)!.erased!)).toBeGreaterThan(700);
    expect(vertices.rings[0].points).toHaveLength(3);
    vertices.remove({ x: 5, y: 5 }, 3, IMAGE);
    expect(vertices.rings[0].points).toHaveLength(0);
    expect(vertices.remove({ x: 5, y: 5 }, 3, IMAGE)).toBeNull();
  });
});
