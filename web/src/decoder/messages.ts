// What the page and its decoding worker say to each other.

import type { Mask, Rle } from "../core/mask";
import type { ChainRequest } from "./chain";

export interface Candidate {
  readonly token: number;
  readonly score: number;
  readonly mask: Mask;
  readonly rle: Rle;
}

export type ToWorker =
  | { type: "start"; decoderUrl: string; imagesUrl: string; headers: Record<string, string>; threads: number }
  | { type: "load"; imageId: number }
  | { type: "decode"; call: number; request: ChainRequest; onlyBest: boolean };

export type FromWorker =
  | { type: "started" }
  | { type: "failed"; reason: string }
  | { type: "loaded"; imageId: number; problem: string | null }
  /** The chosen candidate comes first and alone, `rest` (all of them) a moment later. */
  | { type: "best"; call: number; best: Candidate; ms: number }
  | { type: "rest"; call: number; candidates: Candidate[] }
  | { type: "problem"; call: number; reason: string };
