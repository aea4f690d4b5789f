// The work on one image as a state with undo and redo. Pure: every function gives a new state, the old one stays as it was.

import type { Step } from "./prompt";
import type { Rle } from "./mask";

export type Status = "proposed" | "accepted";

/** A mask of the image: accepted, or proposed by a prefill and waiting. */
export interface Annotation {
  readonly id: string;
  readonly status: Status;
  readonly rle: Rle;
  readonly label: string;
  readonly score: number | null;
  readonly hidden: boolean;
}

/** One of the decoder's answers to the draft's steps. */
export interface Answer {
  readonly token: number;
  readonly score: number;
  readonly rle: Rle;
}

/** The mask being made. `id` is the annotation that it will become or, when one is being edited, is. */
export interface Draft {
  readonly id: string;
  readonly steps: readonly Step[];
  /** The answers to the steps; null until they are there. The chosen one is that of the last step's token. */
  readonly answers: readonly Answer[] | null;
  /** What is shown and accepted while there are no answers: the edited annotation's mask, or the last answer. */
  readonly shown: Rle | null;
  /** The mask that was there before the first step. */
  readonly base: Rle | null;
  /** Painted over whatever the decoder says. */
  readonly added: Rle | null;
  readonly erased: Rle | null;
  readonly label: string;
}

export interface State {
  readonly annotations: readonly Annotation[];
  readonly draft: Draft | null;
  readonly selected: string | null;
}

export interface Session {
  readonly past: readonly State[];
  readonly present: State;
  readonly future: readonly State[];
}

const KEPT_STATES = 500;

export const emptyState: State = { annotations: [], draft: null, selected: null };

export function newSession(present: State): Session {
  return { past: [], present, future: [] };
}

/** The next state, which undo takes back. */
export function commit(session: Session, next: State): Session {
  if (next === session.present) return session;
  return { past: [...session.past, session.present].slice(-KEPT_STATES), present: next, future: [] };
}

/** The same moment, better known: nothing to undo. */
export function amend(session: Session, present: State): Session {
  return { ...session, present };
}

export function undo(session: Session): Session {
  const before = session.past.at(-1);
  if (!before) return session;
  return { past: session.past.slice(0, -1), present: before, future: [session.present, ...session.future] };
}

export function redo(session: Session): Session {
  const [next, ...rest] = session.future;
  if (!next) return session;
  return { past: [...session.past, session.present], present: next, future: rest };
}

// The draft

export function newDraft(id: string, label = ""): Draft {
  return { id, steps: [], answers: null, shown: null, base: null, added: null, erased: null, label };
}

/** A further click or box; `freshId` names the mask if this begins one. A box takes the place of an earlier one. */
export function withStep(state: State, step: Step, freshId: string): State {
  const draft = state.draft ?? newDraft(freshId);
  const kept = step.kind === "box" ? draft.steps.filter((earlier) => earlier.kind !== "box") : draft.steps;
  const shown = chosenAnswer(draft)?.rle ?? draft.shown;
  return { ...state, selected: null, draft: { ...draft, steps: [...kept, step], answers: null, shown } };
}

/** The decoder's answers to the draft's steps; `token` is the one to show. */
export function withAnswers(state: State, answers: readonly Answer[], token: number): State {
  if (!state.draft?.steps.length) return state;
  return { ...state, draft: { ...withToken(state.draft, token), answers } };
}

/** Another of the candidates. */
export function withCandidate(state: State, token: number): State {
  if (!state.draft?.answers?.some((answer) => answer.token === token)) return state;
  return { ...state, draft: withToken(state.draft, token) };
}

function withToken(draft: Draft, token: number): Draft {
  const last = draft.steps[draft.steps.length - 1];
  return { ...draft, steps: [...draft.steps.slice(0, -1), { ...last, token }] };
}

/** Painted pixels: everything added and everything erased so far, this stroke included. */
export function withPaint(state: State, added: Rle | null, erased: Rle | null, freshId: string): State {
  return { ...state, selected: null, draft: { ...(state.draft ?? newDraft(freshId)), added, erased } };
}

export function withDraftLabel(state: State, label: string): State {
  if (!state.draft || state.draft.label === label) return state;
  return { ...state, draft: { ...state.draft, label } };
}

export function chosenAnswer(draft: Draft): Answer | null {
  const token = draft.steps.at(-1)?.token ?? -1;
  return draft.answers?.find((answer) => answer.token === token) ?? null;
}

/** The decoder's part of the draft's mask; paint comes on top. */
export function draftModelRle(draft: Draft): Rle | null {
  return chosenAnswer(draft)?.rle ?? draft.shown;
}

/** Must the decoder be asked? */
export function isUnanswered(draft: Draft | null): boolean {
  return draft !== null && draft.steps.length > 0 && draft.answers === null;
}

// Masks

/** The draft becomes a mask of the image, or changes the one that it came from. */
export function accepted(state: State, rle: Rle): State {
  const { draft } = state;
  if (!draft) return state;
  const earlier = state.annotations.find((annotation) => annotation.id === draft.id);
  const score = chosenAnswer(draft)?.score ?? earlier?.score ?? null;
  const annotation: Annotation = { id: draft.id, status: "accepted", rle, label: draft.label, score, hidden: false };
  const annotations = earlier
    ? state.annotations.map((other) => (other.id === draft.id ? annotation : other))
    : [...state.annotations, annotation];
  return { annotations, draft: null, selected: null };
}

export function discarded(state: State): State {
  return state.draft ? { ...state, draft: null } : state;
}

/** Take a mask up again: it becomes the draft. */
export function editing(state: State, id: string): State {
  const annotation = state.annotations.find((other) => other.id === id);
  if (!annotation || state.draft?.id === id) return state;
  const draft = { ...newDraft(id, annotation.label), shown: annotation.rle, base: annotation.rle };
  return { ...state, draft, selected: null };
}

export function removed(state: State, id: string): State {
  const annotations = state.annotations.filter((annotation) => annotation.id !== id);
  if (annotations.length === state.annotations.length) return state;
  const draft = state.draft?.id === id ? null : state.draft;
  return { annotations, draft, selected: state.selected === id ? null : state.selected };
}

/** Some fields of one mask set to other values. */
export function changed(state: State, id: string, fields: Partial<Pick<Annotation, "label" | "hidden" | "status">>): State {
  return {
    ...state,
    annotations: state.annotations.map((annotation) => (annotation.id === id ? { ...annotation, ...fields } : annotation)),
  };
}

export function selected(state: State, id: string | null): State {
  return state.selected === id ? state : { ...state, selected: id };
}

// What is kept of a draft on the server: the mask as it is, and the way back.

export interface SavedDraft {
  readonly format: "anymask-draft-1";
  readonly draft: Draft;
  /** Earlier states of the same draft, without answers: those can be asked for again. */
  readonly past: readonly Draft[];
}

const KEPT_DRAFTS = 40;

export function savedDraft(session: Session): SavedDraft | null {
  const { draft } = session.present;
  if (!draft) return null;
  const past: Draft[] = [];
  for (const state of session.past.slice().reverse()) {
    if (state.draft?.id !== draft.id || past.length === KEPT_DRAFTS) break;
    past.unshift({ ...state.draft, answers: null });
  }
  return { format: "anymask-draft-1", draft, past };
}

/** A session that goes on with a saved draft, undo included. */
export function resumed(state: State, saved: SavedDraft): Session {
  const past = [state, ...saved.past.map((draft) => ({ ...state, draft }))];
  return { past, present: { ...state, draft: saved.draft }, future: [] };
}

export function isSavedDraft(value: unknown): value is SavedDraft {
  return typeof value === "object" && value !== null && (value as SavedDraft).format === "anymask-draft-1";
}
