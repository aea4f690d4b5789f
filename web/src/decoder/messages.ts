// What the page and its decoding worker say to each other.

import type { Mask, Rle } from "../core/mask";
import type { Outline } from "../core/outline";
import type { ChainRequest } from "./chain";

/** An answer that can be drawn. */
export interface Drawable {
  readonly token: number;
  readonly score: number;
  readonly mask: Mask;
  /** Where it was traced already. */
  readonly outline?: Outline;
}

/** An answer that can be kept. */
export interface Candidate extends Drawable {
  readonly rle: Rle;
}

export type ToWorker =
  | { type: "start"; preparationUrl: string; promptsUrl: string; imagesUrl: string; headers: Record<string, string>; threads: number }
  | { type: "load"; imageId: number }
  | { type: "decode"; call: number; request: ChainRequest; onlyBest: boolean; outlineStep: number };

export type FromWorker =
  | { type: "started" }
  | { type: "failed"; reason: string }
  | { type: "loaded"; imageId: number; problem: string | null }
  /** The chosen candidate comes first and alone, without its code; `rest` (all of them) a moment later. */
  | { type: "best"; call: number; best: Drawable; ms: number }
  | { type: "rest"; call: number; candidates: Candidate[] }
  | { type: "problem"; call: number; reason: string };
