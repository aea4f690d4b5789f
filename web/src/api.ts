// The server's REST interface, as far as the page needs it. All addresses are relative: the app may be mounted anywhere.

import type { Frame } from "./core/frame";
import type { Rle } from "./core/mask";
import { call, fetchReady } from "./fetch";

export interface ServerSession {
  version: string;
  folder: string;
  annotator: string;
  annotator_fixed: boolean;
  model: { name: string; fingerprint: string; stride: number };
  decoder: { available: boolean; reason: string | null; preparation_url: string; prompts_url: string };
  labels: string[];
  seconds_per_mask: number;
  lease_seconds: number;
  counts: { images: number; open: number; done: number; broken: number; masks: number; proposed: number };
  problems: string[];
}

export interface Lease {
  holder: string;
  mine: boolean;
  expires_at: string;
}

export interface ServerImage {
  id: number;
  file_name: string;
  width: number;
  height: number;
  state: "open" | "done" | "broken";
  problem: string | null;
  masks: number;
  proposed: number;
  lease: Lease | null;
  frame: Frame;
}

export interface ServerAnnotation {
  id: string;
  image_id: number;
  version: number;
  status: "proposed" | "accepted" | "deleted";
  segmentation: Rle;
  category: string | null;
  predicted_iou: number | null;
  changed_by: string;
}

export interface ServerStats {
  total: { masks: number; images: number; seconds_per_mask: number | null; clicks_per_mask: number | null };
}

/** One action of the annotator; `t` is in seconds since the mask was begun. */
export interface LogEntry {
  t: number;
  kind: "point" | "box" | "brush" | "eraser" | "polygon" | "candidate" | "undo" | "redo" | "clear" | "accept";
  xy?: [number, number];
  label?: 0 | 1;
  box?: [number, number, number, number];
  size?: number;
  index?: number;
  by?: "page" | "server";
}

export interface ServerDraft {
  annotation_id: string | null;
  revision: number;
  content: Record<string, unknown>;
}

export interface ServerMask {
  segmentation: Rle;
  score: number;
  token_index: number;
  mask_logits: string | null;
}

export class Api {
  /** Who works, as the server should note it. */
  annotator = "";

  get headers(): Record<string, string> {
    return this.annotator ? { "X-Annotator": encodeURIComponent(this.annotator) } : {};
  }

  url(path: string): string {
    return new URL(`api/${path}`, document.baseURI).href;
  }

  private async json<T>(method: string, path: string, body?: unknown): Promise<T> {
    const headers: Record<string, string> = { ...this.headers };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const response = await call(this.url(path), { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    return response.json();
  }

  stats = () => this.json<ServerStats>("GET", "stats");
  session = () => this.json<ServerSession>("GET", "session");
  images = (offset: number, limit: number) =>
    this.json<{ total: number; images: ServerImage[] }>("GET", `images?offset=${offset}&limit=${limit}`);
  image = (id: number) => this.json<ServerImage>("GET", `images/${id}`);
  next = (after: number | null) => this.json<{ image: ServerImage | null }>("POST", "queue/next", { after });
  lease = (id: number, take: boolean) => this.json<ServerImage>("POST", `images/${id}/lease`, { take });
  done = (id: number, reason: "complete" | "good-enough" | "skip", seconds: number) =>
    this.json<ServerImage>("POST", `images/${id}/done`, { reason, accept_proposed: false, seconds });

  annotations = async (id: number) =>
    (await this.json<{ annotations: ServerAnnotation[] }>("GET", `images/${id}/annotations`)).annotations;
  create = (imageId: number, body: object) => this.json<ServerAnnotation>("POST", `images/${imageId}/annotations`, body);
  change = (id: string, body: object) => this.json<ServerAnnotation>("PATCH", `annotations/${id}`, body);
  remove = (id: string, version: number) => this.json<ServerAnnotation>("DELETE", `annotations/${id}?version=${version}`);

  draft = async (id: number) => (await this.json<{ draft: ServerDraft | null }>("GET", `images/${id}/draft`)).draft;
  saveDraft = (id: number, draft: ServerDraft) => this.json<{ revision: number }>("PUT", `images/${id}/draft`, draft);
  dropDraft = (id: number) => this.json<unknown>("DELETE", `images/${id}/draft`);

  /** The server decodes; waits while the image's embedding is not ready. */
  async decode(id: number, prompt: object): Promise<ServerMask[]> {
    const init = { method: "POST", body: JSON.stringify(prompt), headers: { ...this.headers, "Content-Type": "application/json" } };
    const response = await fetchReady(this.url(`images/${id}/decode`), init);
    return ((await response.json()) as { masks: ServerMask[] }).masks;
  }

  async picture(id: number, maxSide?: number): Promise<Blob> {
    const query = maxSide ? `?max_side=${maxSide}` : "";
    return (await fetchReady(this.url(`images/${id}/picture${query}`), { headers: this.headers })).blob();
  }
}
