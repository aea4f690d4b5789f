// Keeps the server's annotations and draft equal to the page's: at once, in order, again and again until it is told.
// What is not told yet also lies in the browser's own storage, so that neither a reload nor a dead server loses it.

import type { Api, ServerAnnotation, ServerDraft } from "./api";
import { freshId } from "./core/id";
import { knownFrom, nextWrite, type Known, type Work, type Write } from "./core/plan";
import type { Annotation } from "./core/session";
import { backoff, Refused, sleep, Unreachable } from "./fetch";

export type SyncState = "saved" | "saving" | "offline";

export interface Conflict {
  readonly imageId: number;
  readonly id: string;
  /** What the server has now. */
  readonly current: ServerAnnotation;
}

interface Finish {
  readonly reason: "complete" | "good-enough";
  readonly seconds: number;
}

/** Everything known about one image whose writing is not over. */
interface Desk {
  readonly imageId: number;
  readonly known: Map<string, Known>;
  wanted: readonly Annotation[];
  work: Record<string, Work>;
  /** The write on its way. Kept as it is until it is answered, for the server knows a repeated one by its ids. */
  pending: Write | null;
  readonly held: Set<string>;
  draft: { id: string; content: Record<string, unknown> } | null;
  draftRevision: number;
  isDraftTold: boolean;
  finish: Finish | null;
}

const DRAFT_DELAY_MS = 250;

export class Sync {
  state: SyncState = "saved";
  onState: () => void = () => {};
  onConflict: (conflict: Conflict) => void = () => {};
  /** A write that the server refuses for another reason than a conflict. */
  onRefused: (message: string) => void = () => {};

  private readonly desks = new Map<number, Desk>();
  private isRunning = false;
  private wake: () => void = () => {};
  private draftDue = 0;

  constructor(
    private readonly api: Api,
    private readonly modelFingerprint: string,
    private readonly storageKey: string,
  ) {
    addEventListener("online", () => this.wake());
  }

  /** Begin with what the server has; gives back what an earlier page could not tell any more. */
  open(imageId: number, annotations: readonly ServerAnnotation[], draft: ServerDraft | null): Leftover | null {
    const earlier = this.desks.get(imageId);
    const desk: Desk = earlier ?? {
      imageId,
      known: new Map(),
      wanted: [],
      work: {},
      pending: null,
      held: new Set(),
      draft: null,
      draftRevision: 0,
      isDraftTold: true,
      finish: null,
    };
    for (const annotation of annotations) {
      const before = desk.known.get(annotation.id);
      desk.known.set(annotation.id, knownFrom(annotation, before ?? { logSent: 0, secondsSent: 0 }));
    }
    desk.draftRevision = Math.max(desk.draftRevision, draft?.revision ?? 0);
    desk.draft = draft && { id: draft.annotation_id ?? "", content: draft.content };
    this.desks.set(imageId, desk);
    return this.leftover(imageId);
  }

  /** What the page wants the server to have. The draft follows a moment later, masks go at once. */
  want(
    imageId: number,
    wanted: readonly Annotation[],
    work: Record<string, Work>,
    draft: { id: string; content: Record<string, unknown> } | null,
  ): void {
    const desk = this.desks.get(imageId);
    if (!desk) return;
    desk.wanted = wanted;
    desk.work = work;
    if (draft !== desk.draft) {
      desk.isDraftTold = draft === null && desk.draft === null;
      desk.draft = draft;
      this.draftDue = performance.now() + DRAFT_DELAY_MS;
    }
    this.remember(desk);
    void this.run();
  }

  /** Mark the image done as soon as everything on it is told. */
  finish(imageId: number, finish: Finish): void {
    const desk = this.desks.get(imageId);
    if (!desk) return;
    desk.finish = finish;
    this.remember(desk);
    void this.run();
  }

  /** Resolves when everything is told. */
  async flushed(): Promise<void> {
    this.draftDue = 0;
    this.wake();
    while (this.state !== "saved") await sleep(30);
  }

  /** The person decided: "mine" overwrites the server's newest, "theirs" was taken over by the page. */
  resolve(imageId: number, id: string, current: ServerAnnotation): void {
    const desk = this.desks.get(imageId);
    if (!desk) return;
    const before = desk.known.get(id);
    desk.known.set(id, knownFrom(current, before ?? { logSent: 0, secondsSent: 0 }));
    desk.held.delete(id);
    void this.run();
  }

  private set(state: SyncState): void {
    if (state === this.state) return;
    this.state = state;
    this.onState();
  }

  private async run(): Promise<void> {
    if (this.isRunning) {
      this.wake();
      return;
    }
    this.isRunning = true;
    let attempt = 0;
    for (;;) {
      const job = this.nextJob();
      if (!job) break;
      if (this.state === "saved") this.set("saving");
      try {
        const delay = job.due - performance.now();
        if (delay > 0) {
          await this.pause(delay);
          continue;
        }
        await job.run();
        attempt = 0;
        this.set("saving");
      } catch (error) {
        if (!(error instanceof Unreachable)) {
          this.isRunning = false;
          throw error;
        }
        if (attempt > 0) this.set("offline");
        await this.pause(backoff(attempt++));
      }
    }
    this.isRunning = false;
    this.set("saved");
  }

  /** Wait, but go on at once when there is news. */
  private pause(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  private nextJob(): { due: number; run: () => Promise<void> } | null {
    for (const desk of this.desks.values()) {
      desk.pending ??= nextWrite(
        desk.known,
        desk.wanted,
        (id) => desk.work[id] ?? { log: [], seconds: 0 },
        desk.held,
        this.modelFingerprint,
        freshId,
      );
      const write = desk.pending;
      if (write) return { due: 0, run: () => this.tell(desk, write) };
    }
    for (const desk of this.desks.values()) {
      if (!desk.isDraftTold) return { due: desk.finish ? 0 : this.draftDue, run: () => this.tellDraft(desk) };
      if (desk.finish && !desk.held.size) return { due: 0, run: () => this.tellFinish(desk, desk.finish!) };
    }
    return null;
  }

  private async tell(desk: Desk, write: Write): Promise<void> {
    this.remember(desk);
    try {
      const current = await this.send(desk.imageId, write);
      desk.known.set(write.id, knownFrom(current, sentBy(write, desk.known.get(write.id))));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const current = error.body.current as ServerAnnotation | undefined;
      desk.held.add(write.id);
      if (error.status === 409 && current) this.onConflict({ imageId: desk.imageId, id: write.id, current });
      else this.onRefused(error.message);
    }
    desk.pending = null;
    this.remember(desk);
  }

  private send(imageId: number, write: Write): Promise<ServerAnnotation> {
    if (write.kind === "create") return this.api.create(imageId, write.body);
    if (write.kind === "change") return this.api.change(write.id, write.body);
    return this.api.remove(write.id, write.version);
  }

  private async tellDraft(desk: Desk): Promise<void> {
    const { draft } = desk;
    try {
      if (draft) {
        const revision = desk.draftRevision + 1;
        await this.api.saveDraft(desk.imageId, { annotation_id: draft.id, revision, content: draft.content });
        desk.draftRevision = revision;
      } else await this.api.dropDraft(desk.imageId);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const current = error.body.current as ServerDraft | undefined;
      // Another window of the same person saved later: this one, where the hand is, goes on top.
      if (error.status === 409 && current) {
        desk.draftRevision = current.revision;
        return;
      }
      this.onRefused(`The unfinished mask could not be saved: ${error.message}`);
    }
    if (desk.draft === draft) desk.isDraftTold = true;
    this.remember(desk);
  }

  private async tellFinish(desk: Desk, { reason, seconds }: Finish): Promise<void> {
    try {
      await this.api.done(desk.imageId, reason, seconds);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.onRefused(error.message);
    }
    desk.finish = null;
    this.remember(desk);
    this.desks.delete(desk.imageId);
  }

  // The browser's own storage

  private keyOf(imageId: number): string {
    return `${this.storageKey}/${imageId}`;
  }

  /** Keep what is not told yet; forget it once it is. */
  private remember(desk: Desk): void {
    const changed = desk.wanted.filter((annotation) => {
      const known = desk.known.get(annotation.id);
      return !known || known.counts !== annotation.rle.counts || known.label !== annotation.label || known.status !== annotation.status;
    });
    const ids = new Set(desk.wanted.map((annotation) => annotation.id));
    const removed = [...desk.known].filter(([id, known]) => !ids.has(id) && known.status !== "deleted").map(([id]) => id);
    try {
      if (!changed.length && !removed.length && !desk.pending && desk.isDraftTold && !desk.finish) {
        localStorage.removeItem(this.keyOf(desk.imageId));
        return;
      }
      const versions = Object.fromEntries([...desk.known].map(([id, known]) => [id, known.version]));
      const work = Object.fromEntries(changed.map(({ id }) => [id, desk.work[id] ?? { log: [], seconds: 0 }]));
      const draft = desk.isDraftTold ? undefined : desk.draft;
      const leftover: Leftover = { changed, removed, versions, work, draft, pending: desk.pending, finish: desk.finish };
      localStorage.setItem(this.keyOf(desk.imageId), JSON.stringify(leftover));
    } catch {
      // A full or forbidden storage: the server is the true keeper, this is the second net.
    }
  }

  private leftover(imageId: number): Leftover | null {
    try {
      const text = localStorage.getItem(this.keyOf(imageId));
      return text ? (JSON.parse(text) as Leftover) : null;
    } catch {
      return null;
    }
  }

  /** Take up the writes of an earlier page, so that they are told as they were. */
  adopt(imageId: number, leftover: Leftover): void {
    const desk = this.desks.get(imageId);
    if (!desk) return;
    desk.pending = leftover.pending;
    desk.finish = leftover.finish;
    // Written against an older version than the server has now: the answer will be a conflict, and the person decides.
    for (const [id, version] of Object.entries(leftover.versions)) {
      const known = desk.known.get(id);
      const isOurs = leftover.changed.some((annotation) => annotation.id === id) || leftover.removed.includes(id);
      if (known && isOurs && leftover.pending?.id !== id) desk.known.set(id, { ...known, version });
    }
  }

  /** Ids of images with untold work from an earlier page. */
  imagesLeft(): number[] {
    const prefix = `${this.storageKey}/`;
    const keys = Array.from({ length: localStorage.length }, (_, index) => localStorage.key(index) ?? "");
    return keys.filter((key) => key.startsWith(prefix)).map((key) => Number(key.slice(prefix.length)));
  }
}

/** What an earlier page could not tell the server any more. */
export interface Leftover {
  changed: readonly Annotation[];
  removed: readonly string[];
  /** The server's versions that these changes were made on. */
  versions: Record<string, number>;
  work: Record<string, Work>;
  /** undefined: told; null: dropped. */
  draft: { id: string; content: Record<string, unknown> } | null | undefined;
  pending: Write | null;
  finish: Finish | null;
}

function sentBy(write: Write, before: Known | undefined): Pick<Known, "logSent" | "secondsSent"> {
  const sent = { logSent: before?.logSent ?? 0, secondsSent: before?.secondsSent ?? 0 };
  if (write.kind === "create") return { logSent: write.body.log.length, secondsSent: write.body.duration_s };
  if (write.kind === "change") {
    return {
      logSent: sent.logSent + (write.body.log?.length ?? 0),
      secondsSent: sent.secondsSent + (write.body.duration_s ?? 0),
    };
  }
  return sent;
}
