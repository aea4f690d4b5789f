// The bar under the picture while a mask is made: candidates, label, time, discard, accept.

import { isUnanswered, type Answer, type Draft } from "../core/session";
import { h, icon } from "./dom";

export interface BarActions {
  choose(token: number): void;
  label(text: string): void;
  discard(): void;
  accept(): void;
  thumbnail(canvas: HTMLCanvasElement, answer: Answer): void;
}

/** Outputs 1 to 3 answer an ambiguous prompt: the largest is the whole. */
const SIZES = ["Whole", "Part", "Subpart"];

export class Bar {
  readonly element: HTMLElement;
  readonly labelInput = h("input", {
    class: "label-input",
    placeholder: "Label",
    list: "labels",
    maxlength: 100,
    title: "Label, if you like (L)",
    "aria-label": "Label of this mask",
    autocomplete: "off",
  });
  private readonly candidates = h("div", { class: "candidates", role: "radiogroup", "aria-label": "Candidates" });
  private readonly time = h("span", { class: "time", title: "Time on this mask" });
  private answers: readonly Answer[] | null = null;

  constructor(private readonly actions: BarActions) {
    this.labelInput.addEventListener("input", () => actions.label(this.labelInput.value));
    this.element = h(
      "div",
      { class: "bar", hidden: true },
      this.candidates,
      this.labelInput,
      this.time,
      h("button", { type: "button", class: "button", onclick: () => actions.discard(), title: "Discard (Esc)" }, "Discard"),
      h("button", { type: "button", class: "button is-primary", onclick: () => actions.accept(), title: "Accept (Enter)" }, icon("check"), "Accept"),
    );
  }

  render(draft: Draft | null): void {
    this.element.hidden = draft === null;
    this.element.setAttribute("aria-busy", String(isUnanswered(draft)));
    if (!draft) {
      this.answers = null;
      this.labelInput.blur();
      return;
    }
    if (document.activeElement !== this.labelInput) this.labelInput.value = draft.label;
    const answers = draft.answers && draft.answers.length > 1 ? draft.answers : null;
    this.candidates.hidden = answers === null;
    if (answers && answers !== this.answers) {
      const names = namesOf(answers);
      this.candidates.replaceChildren(...answers.map((answer, index) => this.candidate(answer, names[index])));
    }
    this.answers = answers;
    const token = draft.steps.at(-1)?.token;
    for (const child of this.candidates.children) {
      const isChosen = child.getAttribute("data-token") === String(token);
      child.setAttribute("aria-checked", String(isChosen));
    }
  }

  renderTime(seconds: number, isLong: boolean): void {
    const minutes = Math.floor(seconds / 60);
    this.time.textContent = minutes ? `${minutes}:${String(Math.floor(seconds % 60)).padStart(2, "0")}` : `${Math.floor(seconds)} s`;
    this.time.classList.toggle("is-long", isLong);
  }

  private candidate(answer: Answer, name: string): HTMLElement {
    const canvas = h("canvas", { width: 72, height: 72, class: "thumbnail" });
    this.actions.thumbnail(canvas, answer);
    return h(
      "button",
      {
        type: "button",
        class: "candidate",
        role: "radio",
        "data-token": answer.token,
        title: `${name}, ${Math.round(answer.score * 100)} % sure (Tab)`,
        onclick: () => this.actions.choose(answer.token),
      },
      canvas,
      h("span", {}, name),
    );
  }
}

function namesOf(answers: readonly Answer[]): string[] {
  let next = 0;
  return answers.map((answer) => (answer.token === 0 ? "Refined" : (SIZES[next++] ?? `Candidate ${next}`)));
}
