// The work on one image: the session with its undo, the decoder asked where an answer is missing, the log and the clock.

import type { LogEntry, ServerAnnotation, ServerDraft, ServerImage } from "./api";
import { freshId } from "./core/id";
import { emptyMask, encodeRle, maskArea, painted, rleArea, type Mask } from "./core/mask";
import type { Work } from "./core/plan";
import type { BoxXYXY, Step } from "./core/prompt";
import * as sessions from "./core/session";
import type { Annotation, Draft, Session, State } from "./core/session";
import { chosenOutput } from "./decoder/chain";
import type { Decoder } from "./decoder/decoder";
import type { Candidate, Drawable } from "./decoder/messages";
import type { Leftover, Sync } from "./sync";
import { maskOf, rememberMask, rememberOutline } from "./ui/shape";
import { paintedOver } from "./ui/stroke";

/** Without a sign of the annotator for this long the clock stands still ("assumed"). */
const IDLE_S = 60;

interface Clock extends Work {
  begunAt: number;
}

export class Workbench {
  image: ServerImage | null = null;
  session: Session = sessions.newSession(sessions.emptyState);
  /** A draft's answer came in: draw it, before anything else. */
  onAnswer: () => void = () => {};
  onChange: () => void = () => {};
  onNotice: (text: string) => void = () => {};

  private work: Record<string, Clock> = {};
  private asked: Draft | null = null;
  private clicked = 0;
  private isAcceptDue = false;
  private beforePress: { session: Session; work: Record<string, Clock> } | null = null;
  private draftContent: { session: Session; content: { id: string; content: Record<string, unknown> } | null } | null = null;
  private best: { steps: readonly Step[]; mask: Mask } | null = null;
  private shown: { draft: Draft; mask: Mask } | null = null;
  private lastSign = performance.now();
  private openedAt = performance.now();

  constructor(
    private readonly decoder: Decoder,
    private readonly sync: Sync,
  ) {
    setInterval(() => this.tick(), 1000);
  }

  get state(): State {
    return this.session.present;
  }

  get draft(): Draft | null {
    return this.session.present.draft;
  }

  /** Active seconds on the present mask. */
  get seconds(): number {
    return this.draft ? (this.work[this.draft.id]?.seconds ?? 0) : 0;
  }

  /** Seconds on the image. */
  get imageSeconds(): number {
    return (performance.now() - this.openedAt) / 1000;
  }

  /** Put an image on the bench, with what is known of it; what an earlier page could not save comes on top. */
  open(image: ServerImage, annotations: readonly ServerAnnotation[], draft: ServerDraft | null, leftover: Leftover | null): void {
    this.image = image;
    this.openedAt = performance.now();
    this.work = {};
    this.asked = null;
    this.best = null;
    this.isAcceptDue = false;
    const content = leftover && leftover.draft !== undefined ? (leftover.draft?.content ?? null) : (draft?.content ?? null);
    const state: State = { ...sessions.emptyState, annotations: mergedAnnotations(annotations, leftover) };
    for (const [id, work] of Object.entries(leftover?.work ?? {})) this.work[id] = { ...work, begunAt: Date.now() - 1000 * work.seconds };
    this.session = sessions.newSession(state);
    if (sessions.isSavedDraft(content)) {
      this.session = sessions.resumed(state, content);
      const work = (content as { work?: Work }).work;
      if (work) this.work[content.draft.id] = { ...work, begunAt: Date.now() - 1000 * work.seconds };
    }
    this.changed();
  }

  close(): void {
    this.image = null;
    this.session = sessions.newSession(sessions.emptyState);
    this.onChange();
  }

  /** A sign of life: the clock runs. */
  sign(): void {
    this.lastSign = performance.now();
  }

  private tick(): void {
    const { draft } = this;
    if (!draft || document.hidden || performance.now() - this.lastSign > 1000 * IDLE_S) return;
    const clock = this.clockOf(draft.id);
    this.work[draft.id] = { ...clock, seconds: clock.seconds + 1 };
  }

  private clockOf(id: string): Clock {
    return (this.work[id] ??= { log: [], seconds: 0, begunAt: Date.now() });
  }

  private note(id: string, entry: Omit<LogEntry, "t">): void {
    const clock = this.clockOf(id);
    const t = Math.round((Date.now() - clock.begunAt) / 10) / 100;
    this.work[id] = { ...clock, log: [...clock.log, { t, ...entry }] };
  }

  /** The next state of the session; `entry` goes into the draft's log. */
  private apply(next: State, entry?: Omit<LogEntry, "t">): void {
    this.session = sessions.commit(this.session, next);
    if (entry && next.draft) this.note(next.draft.id, entry);
    this.changed();
  }

  private changed(): void {
    this.askDecoder();
    this.tellServer();
    this.onChange();
  }

  private tellServer(): void {
    if (!this.image) return;
    this.sync.want(this.image.id, this.state.annotations, this.work, this.draftToSave());
  }

  /** Is there a prompt that has no answer yet? */
  get isAsking(): boolean {
    return this.draft !== null && sessions.isUnanswered(this.draft);
  }

  private draftToSave(): { id: string; content: Record<string, unknown> } | null {
    if (this.draftContent?.session !== this.session) {
      const saved = sessions.savedDraft(this.session);
      const content = saved && { id: saved.draft.id, content: { ...saved, work: this.work[saved.draft.id] } };
      this.draftContent = { session: this.session, content };
    }
    return this.draftContent.content;
  }

  // Asking the decoder

  private askDecoder(): void {
    const { draft, image } = this;
    if (!image || !draft || !sessions.isUnanswered(draft) || this.asked?.steps === draft.steps) return;
    this.asked = draft;
    const begun = this.clicked;
    this.clicked = 0;
    const request = { imageId: image.id, base: draft.base, steps: draft.steps };
    this.decoder
      .decode(
        request,
        (best) => this.showBest(draft, best, begun),
        (candidates) => this.takeAnswers(draft, candidates),
      )
      .catch((error: Error) => {
        if (this.asked === draft) this.asked = null;
        this.isAcceptDue = false;
        // The page's decoder gave up in the middle: the server takes over.
        if (this.decoder.mode === "server" && error.message === "the page cannot decode") this.askDecoder();
        else this.onNotice(`No mask for this click: ${error.message}`);
      });
  }

  /** The best answer alone is drawn before anything else; what is kept comes a moment later with `takeAnswers`. */
  private showBest(asked: Draft, { mask, outline }: Drawable, begun: number): void {
    if (!this.isAskedStill(asked)) return;
    if (outline) rememberOutline(mask, outline);
    this.best = { steps: asked.steps, mask };
    this.shown = null;
    this.onAnswer();
    if (begun) performance.measure("click-to-mask", { start: begun, end: performance.now(), detail: { worker: this.decoder.latestMs } });
  }

  private takeAnswers(asked: Draft, candidates: readonly Candidate[]): void {
    if (!this.isAskedStill(asked)) return;
    const chosen = chosenOutput(candidates, asked.steps[asked.steps.length - 1].token).token;
    // The one that is drawn already stays the same object, with its outline.
    for (const { token, rle, mask } of candidates) rememberMask(rle, token === chosen && this.best ? this.best.mask : mask);
    const answers = bySize(candidates).map(({ token, score, rle }) => ({ token, score, rle }));
    this.session = sessions.amend(this.session, sessions.withAnswers(this.state, answers, chosen));
    this.best = null;
    this.tellServer();
    this.onChange();
    if (this.isAcceptDue) this.accept();
  }

  /** The answer to something that was taken back, or followed by a further click, is kept by the decoder alone. */
  private isAskedStill(asked: Draft): boolean {
    const { draft } = this;
    return draft?.id === asked.id && areSameSteps(draft.steps, asked.steps);
  }

  /** The draft as it would be accepted now. */
  draftMask(): Mask | null {
    const { draft } = this;
    if (!draft) return null;
    if (this.shown?.draft !== draft) {
      const model = this.modelMask(draft);
      this.shown = { draft, mask: painted(model, draft.added && maskOf(draft.added), draft.erased && maskOf(draft.erased)) };
    }
    return this.shown.mask;
  }

  /** The decoder's part of the draft's mask. */
  private modelMask(draft: Draft): Mask {
    if (this.best && draft.answers === null && areSameSteps(draft.steps, this.best.steps)) return this.best.mask;
    const rle = sessions.draftModelRle(draft);
    return rle ? maskOf(rle) : emptyMask(this.image!.width, this.image!.height);
  }

  // What the hand does

  press(x: number, y: number, label: 0 | 1, begun: number): void {
    this.beforePress = { session: this.session, work: this.work };
    this.clicked = begun;
    const step: Step = { kind: "point", x, y, label, token: -1 };
    this.apply(sessions.withStep(this.state, step, freshId()), { kind: "point", xy: [x, y], label, by: this.by });
  }

  /** The press became something else. */
  withdraw(): void {
    if (!this.beforePress) return;
    this.session = this.beforePress.session;
    this.work = this.beforePress.work;
    this.beforePress = null;
    this.asked = null;
    this.changed();
  }

  box(box: BoxXYXY): void {
    this.clicked = performance.now();
    const step: Step = { kind: "box", box, token: -1 };
    this.apply(sessions.withStep(this.state, step, freshId()), { kind: "box", box: [...box], by: this.by });
  }

  private get by(): "page" | "server" {
    return this.decoder.mode === "page" ? "page" : "server";
  }

  /** Pixels added and pixels erased by one stroke. */
  paint(added: Mask | null, erased: Mask | null, kind: "brush" | "eraser" | "polygon", size: number): void {
    if (!this.draft && !added) return;
    const paint = paintedOver(this.draft ?? { added: null, erased: null }, added, erased);
    this.apply(sessions.withPaint(this.state, paint.added, paint.erased, freshId()), { kind, size });
  }

  choose(token: number): void {
    this.apply(sessions.withCandidate(this.state, token), { kind: "candidate", index: token });
  }

  /** The next candidate, or the one before. */
  cycle(by: 1 | -1): void {
    const answers = this.draft?.answers;
    if (!answers || answers.length < 2) return;
    const at = answers.findIndex(({ token }) => token === this.draft!.steps.at(-1)!.token);
    this.choose(answers[(at + by + answers.length) % answers.length].token);
  }

  labelDraft(label: string): void {
    this.session = sessions.amend(this.session, sessions.withDraftLabel(this.state, label));
    this.draftContent = null;
    this.tellServer();
  }

  /** True unless there is nothing to accept. Where the answer is on its way the acceptance waits for it. */
  accept(): boolean {
    const { draft } = this;
    this.isAcceptDue = false;
    if (!draft) return false;
    if (sessions.isUnanswered(draft) || (draft.steps.length && (draft.answers?.length ?? 0) === 0)) {
      this.isAcceptDue = true;
      return false;
    }
    const mask = this.draftMask()!;
    if (!maskArea(mask)) {
      this.onNotice("This mask is empty. Click what belongs to it, or discard it with Esc.");
      return false;
    }
    const rle = encodeRle(mask);
    rememberMask(rle, mask);
    this.note(draft.id, { kind: "accept" });
    this.apply(sessions.accepted(this.state, rle));
    return true;
  }

  get isAccepting(): boolean {
    return this.isAcceptDue;
  }

  discard(): void {
    if (this.draft) this.note(this.draft.id, { kind: "clear" });
    this.apply(sessions.discarded(this.state));
  }

  edit(id: string): void {
    if (this.draft && maskArea(this.draftMask()!) && !this.accept()) return;
    this.apply(sessions.editing(this.state, id));
  }

  remove(id: string): void {
    this.apply(sessions.removed(this.state, id));
  }

  change(id: string, fields: Partial<Pick<Annotation, "label" | "hidden" | "status">>): void {
    this.apply(sessions.changed(this.state, id, fields));
  }

  takeAllProposed(): void {
    const annotations = this.state.annotations.map((annotation) => ({ ...annotation, status: "accepted" as const }));
    this.apply({ ...this.state, annotations });
  }

  /** Selecting is no step that undo would take back. */
  select(id: string | null): void {
    this.session = sessions.amend(this.session, sessions.selected(this.state, id));
    this.onChange();
  }

  undo(): void {
    this.travel(sessions.undo(this.session), "undo");
  }

  redo(): void {
    this.travel(sessions.redo(this.session), "redo");
  }

  private travel(session: Session, kind: "undo" | "redo"): void {
    if (session === this.session) return;
    const id = (this.draft ?? session.present.draft)?.id;
    if (id) this.note(id, { kind });
    this.asked = null;
    this.isAcceptDue = false;
    this.session = session;
    this.changed();
  }

  /** The server's version takes the place of ours, in the present alone. */
  takeOver(current: ServerAnnotation): void {
    const others = this.state.annotations.filter(({ id }) => id !== current.id);
    const annotations = current.status === "deleted" ? others : [...others, annotationFrom(current)];
    this.session = sessions.amend(this.session, { ...this.state, annotations });
    this.changed();
  }
}

/** From the largest to the smallest, the single answer first. */
function bySize(candidates: readonly Candidate[]): Candidate[] {
  const ranked = candidates.map((candidate) => ({ candidate, rank: candidate.token === 0 ? -Infinity : -rleArea(candidate.rle) }));
  return ranked.sort((a, b) => a.rank - b.rank).map(({ candidate }) => candidate);
}

function areSameSteps(a: readonly Step[], b: readonly Step[]): boolean {
  const plain = (steps: readonly Step[]) => JSON.stringify(steps.map((step, index) => (index === steps.length - 1 ? { ...step, token: -1 } : step)));
  return a.length === b.length && plain(a) === plain(b);
}

export function annotationFrom(server: ServerAnnotation): Annotation {
  return {
    id: server.id,
    status: server.status === "proposed" ? "proposed" : "accepted",
    rle: server.segmentation,
    label: server.category ?? "",
    score: server.predicted_iou,
    hidden: false,
  };
}

/** The server's masks with the changes that an earlier page could not tell. */
export function mergedAnnotations(server: readonly ServerAnnotation[], leftover: Leftover | null): Annotation[] {
  const merged = new Map(server.filter(({ status }) => status !== "deleted").map((one) => [one.id, annotationFrom(one)]));
  for (const annotation of leftover?.changed ?? []) merged.set(annotation.id, annotation);
  for (const id of leftover?.removed ?? []) merged.delete(id);
  return [...merged.values()];
}
