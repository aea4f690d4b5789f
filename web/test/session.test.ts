import { describe, expect, it } from "vitest";
import { knownFrom, nextWrite, type Known, type Work } from "../src/core/plan";
import * as s from "../src/core/session";
import type { Step } from "../src/core/prompt";

const rle = (counts: string) => ({ size: [10, 10], counts }) as const;
const point = (x: number): Step => ({ kind: "point", x, y: 1, label: 1, token: -1 });
const answers = [1, 2, 3].map((token) => ({ token, score: token / 10, rle: rle(`m${token}`) }));

/** A click, answered; then accepted as the mask of the chosen candidate. */
function clicked(session: s.Session, id: string, token = 2): s.Session {
  const asked = s.commit(session, s.withStep(session.present, point(3), id));
  return s.amend(asked, s.withAnswers(asked.present, answers, token));
}

const accept = (session: s.Session, counts: string) => s.commit(session, s.accepted(session.present, rle(counts)));

describe("the session", () => {
  it("takes every action back and forth again", () => {
    const moments = [s.newSession(s.emptyState)];
    const then = (next: s.Session) => moments.push(next);
    then(clicked(moments[0], "a"));
    then(s.commit(moments.at(-1)!, s.withCandidate(moments.at(-1)!.present, 3)));
    then(s.commit(moments.at(-1)!, s.withPaint(moments.at(-1)!.present, rle("p"), null, "x")));
    then(accept(moments.at(-1)!, "A"));
    then(clicked(moments.at(-1)!, "b"));
    then(s.commit(moments.at(-1)!, s.discarded(moments.at(-1)!.present)));
    then(s.commit(moments.at(-1)!, s.changed(moments.at(-1)!.present, "a", { hidden: true })));
    then(s.commit(moments.at(-1)!, s.removed(moments.at(-1)!.present, "a")));
    let session = moments.at(-1)!;
    for (let index = moments.length - 2; index >= 0; index--) {
      session = s.undo(session);
      expect(session.present).toEqual(moments[index].present);
    }
    expect(s.undo(session)).toBe(session);
    for (const moment of moments.slice(1)) {
      session = s.redo(session);
      expect(session.present).toEqual(moment.present);
    }
    expect(s.redo(session)).toBe(session);
  });

  it("forgets what was undone when something new is done", () => {
    let session = accept(clicked(s.newSession(s.emptyState), "a"), "A");
    session = clicked(s.undo(session), "a");
    expect(session.future).toEqual([]);
  });

  it("keeps an answer out of the undo steps, and the chosen token in the chain", () => {
    const session = clicked(s.newSession(s.emptyState), "a", 2);
    expect(session.past.length).toBe(1);
    expect(session.present.draft!.steps[0].token).toBe(2);
    const further = s.withStep(session.present, point(5), "never");
    expect(further.draft!.id).toBe("a");
    expect(further.draft!.steps.map(({ token }) => token)).toEqual([2, -1]);
    expect(further.draft!.shown).toEqual(answers[1].rle);
    expect(s.isUnanswered(further.draft)).toBe(true);
  });

  it("lets a box take the place of an earlier box", () => {
    const box = (x: number): Step => ({ kind: "box", box: [x, 0, 9, 9], token: -1 });
    let state = s.withStep(s.emptyState, box(1), "a");
    state = s.withStep(state, point(4), "a");
    state = s.withStep(state, box(2), "a");
    expect(state.draft!.steps).toEqual([point(4), box(2)]);
  });

  it("changes the mask that it edits, in its place", () => {
    let session = accept(clicked(s.newSession(s.emptyState), "a"), "A");
    session = accept(clicked(session, "b"), "B");
    const edited = s.withPaint(s.editing(session.present, "a"), rle("p"), null, "never");
    const state = s.accepted(edited, rle("A2"));
    expect(state.annotations.map(({ id, rle: { counts } }) => [id, counts])).toEqual([["a", "A2"], ["b", "B"]]);
  });

  it("resumes a saved draft with its undo", () => {
    let session = clicked(accept(clicked(s.newSession(s.emptyState), "a"), "A"), "b");
    session = s.commit(session, s.withStep(session.present, point(7), "b"));
    const saved = JSON.parse(JSON.stringify(s.savedDraft(session)));
    expect(s.isSavedDraft(saved)).toBe(true);
    const again = s.resumed({ ...session.present, draft: null }, saved);
    expect(again.present).toEqual(session.present);
    expect(s.undo(again).present.draft!.steps).toEqual(s.undo(session).present.draft!.steps);
    expect(s.undo(s.undo(again)).present.draft).toBe(null);
  });
});

describe("what the server is told", () => {
  const none: Work = { log: [], seconds: 0 };
  const plan = (known: Map<string, Known>, wanted: readonly s.Annotation[], work: Record<string, Work> = {}, held = new Set<string>()) =>
    nextWrite(known, wanted, (id) => work[id] ?? none, held, "f", () => "edit");
  const annotation = (id: string, counts: string, fields: Partial<s.Annotation> = {}): s.Annotation => ({
    id, status: "accepted", rle: rle(counts), label: "", score: 0.5, hidden: false, ...fields,
  });
  const known = (counts: string, fields: Partial<Known> = {}): Known => ({ version: 3, status: "accepted", counts, label: "", logSent: 0, secondsSent: 0, ...fields });

  it("is nothing when it knows everything; hiding is the page's own affair", () => {
    expect(plan(new Map([["a", known("A")]]), [annotation("a", "A", { hidden: true })])).toBe(null);
  });

  it("is a new mask with all its work", () => {
    const work = { a: { log: [{ t: 1, kind: "accept" as const }], seconds: 9 } };
    const write = plan(new Map(), [annotation("a", "A", { label: "cat" })], work);
    expect(write).toMatchObject({ kind: "create", id: "a", body: { category: "cat", duration_s: 9, log: work.a.log } });
  });

  it("is a change with the further work alone", () => {
    const log = [1, 2, 3].map((t) => ({ t, kind: "point" as const }));
    const server = known("A", { logSent: 2, secondsSent: 4 });
    const write = plan(new Map([["a", server]]), [annotation("a", "B")], { a: { log, seconds: 10 } });
    expect(write).toMatchObject({ kind: "change", body: { version: 3, segmentation: rle("B"), log: [log[2]], duration_s: 6 } });
  });

  it("is an un-deletion, an acceptance, a deletion", () => {
    const wanted = [annotation("a", "A")];
    for (const status of ["deleted", "proposed"] as const) {
      expect(plan(new Map([["a", known("A", { status })]]), wanted)).toMatchObject({ kind: "change", body: { status: "accepted" } });
    }
    expect(plan(new Map([["a", known("A")]]), [])).toEqual({ kind: "remove", id: "a", version: 3 });
    expect(plan(new Map([["a", known("A", { status: "deleted" })]]), [])).toBe(null);
  });

  it("builds on the server's newest version after a conflict", () => {
    const rest = { image_id: 1, predicted_iou: null, changed_by: "bob" };
    const current = { id: "a", version: 9, status: "accepted" as const, segmentation: rle("A"), category: "theirs", ...rest };
    const after = knownFrom(current, known("A", { version: 3, logSent: 2 }));
    expect(after).toEqual(known("A", { version: 9, label: "theirs", logSent: 2 }));
    expect(plan(new Map([["a", after]]), [annotation("a", "A", { label: "mine" })])).toMatchObject({ body: { version: 9, category: "mine" } });
  });

  it("leaves alone what waits for the person's decision", () => {
    expect(plan(new Map([["a", known("A")]]), [annotation("a", "B")], {}, new Set(["a"]))).toBe(null);
  });
});
