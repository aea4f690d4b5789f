// The outline of the draft as polygons whose corners can be moved: what a moved corner adds to the mask and takes away.
//
// Only what lies between the old and the new corner changes; elsewhere the mask stays as it is, to the pixel.

import { polygonMask } from "../core/brush";
import { maskArea, maskHas, trimmed, type Mask } from "../core/mask";
import { ringsOf, toSegment, type Ring } from "../core/outline";
import type { Point, Size } from "../core/view";

/** What an edit changes; null for nothing. */
export interface Change {
  readonly added: Mask | null;
  readonly erased: Mask | null;
}

export class Vertices {
  rings: readonly Ring[] = [];
  private mask: Mask | null = null;
  private isOwnEdit = false;
  private held: { ring: number; index: number; before: Ring } | null = null;

  /** Follow the draft's mask. After an edit made here the corners stay where they are. `scale`: screen pixels per image pixel. */
  follow(mask: Mask | null, scale: number): void {
    if (mask === this.mask) return;
    if (!this.isOwnEdit || !mask) this.rings = mask ? ringsOf(mask, Math.max(1.2, 3 / scale), Math.max(4, (8 / scale) ** 2)) : [];
    this.mask = mask;
    this.isOwnEdit = false;
    this.held = null;
  }

  /** Take hold of the corner at a place, or of a new one on the line there; false where there is none. */
  grab(at: Point, reach: number): boolean {
    const corner = this.cornerAt(at, reach);
    if (corner) {
      this.held = { ...corner, before: this.rings[corner.ring] };
      return true;
    }
    for (const [ring, { points, isHole }] of this.rings.entries()) {
      const index = points.findIndex((from, place) => toSegment(from, points[(place + 1) % points.length])(at) <= reach);
      if (index < 0) continue;
      this.held = { ring, index: index + 1, before: this.rings[ring] };
      this.replace(ring, { points: [...points.slice(0, index + 1), at, ...points.slice(index + 1)], isHole });
      return true;
    }
    return false;
  }

  drag(to: Point): void {
    if (!this.held) return;
    const { points, isHole } = this.rings[this.held.ring];
    this.replace(this.held.ring, { points: points.map((point, index) => (index === this.held!.index ? to : point)), isHole });
  }

  /** Let go; null where nothing was held. Where it is cancelled the corner goes back. */
  drop(image: Size, isCancelled: boolean): Change | null {
    const { held } = this;
    this.held = null;
    if (!held) return null;
    if (!isCancelled) return this.changed(held.before, this.rings[held.ring], image);
    this.replace(held.ring, held.before);
    return null;
  }

  /** Take the corner at a place away; a triangle goes as a whole. */
  remove(at: Point, reach: number, image: Size): Change | null {
    const corner = this.cornerAt(at, reach);
    if (!corner) return null;
    const before = this.rings[corner.ring];
    const points = before.points.length > 3 ? before.points.filter((_, index) => index !== corner.index) : [];
    this.replace(corner.ring, { points, isHole: before.isHole });
    return this.changed(before, this.rings[corner.ring], image);
  }

  private cornerAt(at: Point, reach: number): { ring: number; index: number } | null {
    let found: { ring: number; index: number } | null = null;
    let nearest = reach;
    this.rings.forEach(({ points }, ring) =>
      points.forEach((point, index) => {
        const distance = Math.hypot(point.x - at.x, point.y - at.y);
        if (distance <= nearest) [found, nearest] = [{ ring, index }, distance];
      }),
    );
    return found;
  }

  private replace(ring: number, by: Ring): void {
    this.rings = this.rings.map((other, index) => (index === ring ? by : other));
  }

  private changed(before: Ring, after: Ring, image: Size): Change {
    const was = polygonMask(before.points, image);
    const is = polygonMask(after.points, image);
    const [gained, lost] = [without(is, was), without(was, is)];
    this.isOwnEdit = gained !== null || lost !== null;
    return after.isHole ? { added: lost, erased: gained } : { added: gained, erased: lost };
  }
}

/** The pixels of one mask that the other has not; null for none. */
function without(mask: Mask | null, other: Mask | null): Mask | null {
  if (!mask) return null;
  const bits = mask.bits.map((bit, at) => (bit && other && maskHas(other, mask.x + (at % mask.w), mask.y + Math.floor(at / mask.w)) ? 0 : bit));
  const rest = trimmed({ ...mask, bits });
  return maskArea(rest) ? rest : null;
}
