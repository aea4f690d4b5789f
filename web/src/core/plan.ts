// What must be told to the server so that it has what the page has. Pure.

import type { LogEntry, ServerAnnotation } from "../api";
import type { Rle } from "./mask";
import type { Annotation, Status } from "./session";

/** What the server is known to have of one annotation. */
export interface Known {
  readonly version: number;
  readonly status: Status | "deleted";
  readonly counts: string;
  readonly label: string;
  /** How much of the page's work on it was told. */
  readonly logSent: number;
  readonly secondsSent: number;
}

/** The clicks and the active time that went into one annotation, undone ones included. */
export interface Work {
  readonly log: readonly LogEntry[];
  readonly seconds: number;
}

export type Write =
  | { readonly kind: "create"; readonly id: string; readonly body: CreateBody }
  | { readonly kind: "change"; readonly id: string; readonly body: ChangeBody }
  | { readonly kind: "remove"; readonly id: string; readonly version: number };

export interface CreateBody {
  id: string;
  segmentation: Rle;
  category: string | null;
  predicted_iou: number | null;
  log: readonly LogEntry[];
  duration_s: number;
  model_fingerprint: string;
}

export interface ChangeBody {
  version: number;
  edit_id: string;
  segmentation?: Rle;
  category?: string | null;
  predicted_iou?: number | null;
  status?: Status;
  log?: readonly LogEntry[];
  duration_s?: number;
  model_fingerprint?: string;
}

export function knownFrom(server: ServerAnnotation, sent: Pick<Known, "logSent" | "secondsSent">): Known {
  return {
    version: server.version,
    status: server.status,
    counts: server.segmentation.counts,
    label: server.category ?? "",
    logSent: sent.logSent,
    secondsSent: sent.secondsSent,
  };
}

/** The first write that brings the server nearer to `wanted`; null when it has everything. Ids in `held` are left alone. */
export function nextWrite(
  known: ReadonlyMap<string, Known>,
  wanted: readonly Annotation[],
  workOf: (id: string) => Work,
  held: ReadonlySet<string>,
  modelFingerprint: string,
  freshId: () => string,
): Write | null {
  for (const annotation of wanted) {
    if (held.has(annotation.id)) continue;
    const server = known.get(annotation.id);
    if (!server) return createOf(annotation, workOf(annotation.id), modelFingerprint);
    const fields = differences(annotation, server);
    if (!fields) continue;
    const work = workOf(annotation.id);
    const body: ChangeBody = { version: server.version, edit_id: freshId(), ...fields };
    if (work.log.length > server.logSent) body.log = work.log.slice(server.logSent);
    if (work.seconds > server.secondsSent) body.duration_s = work.seconds - server.secondsSent;
    if (fields.segmentation) body.model_fingerprint = modelFingerprint;
    return { kind: "change", id: annotation.id, body };
  }
  const ids = new Set(wanted.map((annotation) => annotation.id));
  for (const [id, server] of known) {
    if (!ids.has(id) && server.status !== "deleted" && !held.has(id)) return { kind: "remove", id, version: server.version };
  }
  return null;
}

function createOf(annotation: Annotation, work: Work, modelFingerprint: string): Write {
  const body = {
    id: annotation.id,
    segmentation: annotation.rle,
    category: annotation.label || null,
    predicted_iou: annotation.score,
    log: work.log,
    duration_s: work.seconds,
    model_fingerprint: modelFingerprint,
  };
  return { kind: "create", id: annotation.id, body };
}

function differences(annotation: Annotation, server: Known): Omit<ChangeBody, "version" | "edit_id"> | null {
  const fields: Omit<ChangeBody, "version" | "edit_id"> = {};
  if (annotation.rle.counts !== server.counts) {
    fields.segmentation = annotation.rle;
    fields.predicted_iou = annotation.score;
  }
  if (annotation.label !== server.label) fields.category = annotation.label || null;
  if (annotation.status !== server.status) fields.status = annotation.status;
  return Object.keys(fields).length ? fields : null;
}
