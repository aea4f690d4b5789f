// The page: its parts put together, drawn from the state, driven by keys and buttons.

import type { Api, ServerImage, ServerSession } from "./api";
import type { Annotation } from "./core/session";
import type { Mask } from "./core/mask";
import { outlineStep } from "./core/outline";
import { zoomedAt } from "./core/view";
import type { Decoder } from "./decoder/decoder";
import { Gallery } from "./gallery";
import { commandOf, type Command } from "./keys";
import type { Conflict, Sync } from "./sync";
import { toggleTheme } from "./theme";
import { Bar } from "./ui/bar";
import { h, icon, iconButton, openSheet } from "./ui/dom";
import { Hands } from "./ui/hands";
import { helpSheet } from "./ui/help";
import { ask, Notices } from "./ui/notices";
import { Overview } from "./ui/overview";
import { Panel } from "./ui/panel";
import { Pointers, type Tool } from "./ui/pointer";
import { DRAFT_RGB, maskColour, Scene } from "./ui/scene";
import { maskOf, type Rgb } from "./ui/shape";
import { drawThumbnail } from "./ui/thumbnail";
import { Tools, TOOLS } from "./ui/tools";
import { Top } from "./ui/top";
import type { Workbench } from "./workbench";

// How long lists and buttons wait for an answer, so that the decoder has the processor to itself ("assumed": not noticed).
const PATIENCE_MS = 90;

const byId = (id: string) => document.getElementById(id)!;

export class Page {
  private readonly scene = new Scene(byId("canvas"), byId("back") as HTMLCanvasElement, byId("front") as HTMLCanvasElement);
  private readonly notices = new Notices(byId("notices"));
  private readonly hands: Hands;
  private readonly pointers: Pointers;
  private readonly panel: Panel;
  private readonly bar: Bar;
  private readonly gallery: Gallery;
  private readonly top: Top;
  private readonly tools: Tools;
  private readonly overview: Overview;
  private readonly help = helpSheet();
  private readonly colours = new Map<string, Rgb>();
  private readonly commands: Record<Command, () => void>;
  private readonly hideAllButton = iconButton("eye", "Hide or show all (Shift M)", () => this.commands.hideAll());
  private readonly goodEnoughButton = h("button", { type: "button", class: "button", title: "Good enough, next image (G)", id: "good-enough", onclick: () => this.commands.goodEnough() }, "Good enough, next image", icon("right"));
  private readonly doneShare = h("div", { class: "done" }, h("span", {}), h("i", {}));
  private readonly nudge = h("div", { class: "nudge", hidden: true, role: "status" });
  private picture: ImageBitmap | null = null;
  private pointed: string | null = null;
  private doneHere = 0;
  private renderTimer = 0;

  constructor(
    private readonly api: Api,
    private readonly server: ServerSession,
    private readonly decoder: Decoder,
    private readonly sync: Sync,
    private readonly bench: Workbench,
  ) {
    this.hands = new Hands(this.scene, bench, decoder, (id) => bench.select(id));
    this.pointers = new Pointers(byId("canvas"), this.hands);
    this.panel = new Panel({
      select: (id) => bench.select(bench.state.selected === id ? null : id),
      point: (id) => {
        this.pointed = id;
        this.renderScene();
      },
      edit: (id) => bench.edit(id),
      hide: (id) => this.toggleHidden(id),
      remove: (id) => bench.remove(id),
      take: (id) => this.takeProposed(id),
      takeAll: () => bench.takeAllProposed(),
      relabel: (id, label) => bench.change(id, { label }),
      thumbnail: (canvas, annotation) => this.thumbnail(canvas, maskOf(annotation.rle), this.colourOf(annotation)),
    });
    this.bar = new Bar({
      choose: (token) => bench.choose(token),
      label: (text) => bench.labelDraft(text),
      discard: () => bench.discard(),
      accept: () => bench.accept(),
      thumbnail: (canvas, answer) => this.thumbnail(canvas, maskOf(answer.rle), DRAFT_RGB),
    });
    const view = {
      onLoading: (isLoading: boolean, problem: string | null) => this.showLoading(isLoading, problem),
      onPicture: (picture: ImageBitmap | null, image: ServerImage | null) => this.showPicture(picture, image),
      askTakeOver: async (holder: string, fileName: string) =>
        (await ask(`${holder} works on this image`, `${fileName} is leased to ${holder}. Take it over, or leave it to them.`, { yes: "Take over", no: "Leave it" })) !== null,
      onNothingLeft: () => this.notices.show("end", "Every image is done, or somebody else works on it.", "warn"),
      onNotice: (text: string) => this.notices.show("gallery", text, "warn"),
    };
    this.gallery = new Gallery(api, sync, decoder, bench, view, server.lease_seconds);
    this.overview = new Overview(api, {
      open: (id) => id !== bench.image?.id && void this.leave(() => this.gallery.open(id)),
      refresh: () => this.gallery.listImages(),
    });
    this.commands = this.makeCommands();
    const who = () => void this.askWho();
    this.top = new Top(byId("top"), api.annotator || server.annotator, server.annotator_fixed, { ...this.commands, who });
    this.tools = new Tools(byId("rail"), this.hands, this.commands);
    this.assemble();
    this.listen();
  }

  start(): void {
    this.render();
    void this.gallery.start().then(() => this.gallery.recover());
    for (const problem of this.server.problems.slice(0, 3)) this.notices.show(problem, problem, "warn");
  }

  private assemble(): void {
    byId("dock").append(this.nudge, h("div", { class: "dock-row" }, this.tools.brushSize, this.bar.element));
    byId("panel-buttons").append(this.hideAllButton);
    byId("list").append(this.panel.element);
    byId("panel-foot").append(this.goodEnoughButton, this.doneShare);
    byId("labels").append(...this.server.labels.map((label) => h("option", { value: label })));
    document.body.append(this.help, this.overview.element);
    document.title = `${this.server.folder} · anymask`;
  }

  private listen(): void {
    this.bench.onChange = () => this.renderInTime();
    this.bench.onAnswer = () => this.showAnswer();
    this.bench.onNotice = (text) => this.notices.show("bench", text);
    this.sync.onState = () => this.renderStatus();
    this.sync.onConflict = (conflict) => this.showConflict(conflict);
    this.sync.onRefused = (message) => this.notices.show("refused", message, "bad");
    this.decoder.onMode = () => this.renderStatus();
    this.decoder.outlineStep = () => outlineStep(this.scene.scale);
    this.hands.onTool = () => this.renderTools();
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("keyup", (event) => event.key === " " && this.pointers.setSpace(false));
    addEventListener("blur", () => this.pointers.setSpace(false));
    for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"]) addEventListener(kind, () => this.bench.sign(), { passive: true });
    addEventListener("pagehide", () => void this.sync.flushed());
    setInterval(() => this.renderTime(), 500);
  }

  private makeCommands(): Record<Command, () => void> {
    const { bench, hands, scene } = this;
    const tools = Object.fromEntries(TOOLS.map(([tool]) => [tool, () => hands.setTool(tool)])) as Record<Tool, () => void>;
    const zoom = (factor: number) => {
      const { width, height } = scene.size;
      scene.setView(zoomedAt(scene.view, { x: width / 2, y: height / 2 }, factor, scene.image, scene.size));
    };
    const withSelected = (work: (id: string) => void) => () => bench.state.selected && work(bench.state.selected);
    return {
      ...tools,
      accept: () => {
        const { selected, annotations } = bench.state;
        if (bench.draft) bench.accept();
        else if (selected && annotations.find(({ id }) => id === selected)?.status === "proposed") this.takeProposed(selected);
      },
      discard: () => (bench.draft ? bench.discard() : bench.select(null)),
      candidate: () => bench.cycle(1),
      candidateBack: () => bench.cycle(-1),
      label: () => (bench.draft ? this.bar.labelInput.focus() : bench.state.selected && this.panel.askLabelOf(bench.state.selected)),
      smaller: () => hands.setBrushStep(hands.brushStep - 1),
      larger: () => hands.setBrushStep(hands.brushStep + 1),
      undo: () => bench.undo(),
      redo: () => bench.redo(),
      fit: () => scene.fit(),
      zoomIn: () => zoom(1.4),
      zoomOut: () => zoom(1 / 1.4),
      up: () => this.selectNext(-1),
      down: () => this.selectNext(1),
      edit: withSelected((id) => bench.edit(id)),
      delete: () => (bench.draft ? bench.discard() : withSelected((id) => bench.remove(id))()),
      hide: withSelected((id) => this.toggleHidden(id)),
      hideAll: () => {
        scene.areMasksShown = !scene.areMasksShown;
        scene.redraw();
        this.renderTools();
      },
      all: () => this.overview.toggle(),
      next: () => void this.leave(() => this.gallery.next()),
      previous: () => void this.leave(() => this.gallery.previous()),
      goodEnough: () => void this.finishImage(),
      theme: () => {
        toggleTheme();
        this.render();
      },
      help: () => (this.help.open ? this.help.close() : openSheet(this.help)),
    };
  }

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (document.querySelector("dialog[open]") && target.closest("dialog")) {
      // The key that opened a sheet closes it.
      if (event.key === "?" && this.help.open) this.help.close();
      if (event.key.toLowerCase() === "o" && this.overview.element.open) this.overview.element.close();
      return;
    }
    if (target instanceof HTMLInputElement && target.type !== "range") {
      if (event.key === "Escape") target.blur();
      else if (event.key === "Enter" && target === this.bar.labelInput) this.bench.accept();
      return;
    }
    if (event.key === " ") {
      event.preventDefault();
      this.pointers.setSpace(true);
      return;
    }
    const command = commandOf(event);
    if (!command) return;
    // Tab goes from button to button as everywhere, except while there are candidates to choose from.
    if (command.startsWith("candidate") && (this.bench.draft?.answers?.length ?? 0) < 2) return;
    // Enter on a button that was reached by Tab presses that button.
    if (command === "accept" && target.matches("button:focus-visible")) return;
    event.preventDefault();
    this.commands[command]();
  }

  // Images

  /** Go to another image; an unfinished mask stays as a draft of this one. */
  private async leave(go: () => Promise<void>): Promise<void> {
    if (!this.gallery.isBusy) await go();
  }

  private async finishImage(): Promise<void> {
    const { bench } = this;
    if (!bench.image || this.gallery.isBusy) return;
    const isLong = !this.nudge.hidden; // accepting hides it
    // The mask in hand counts as it is: that is what "good enough" says.
    if (bench.draft && !bench.accept()) {
      while (bench.isAccepting) await new Promise((resolve) => setTimeout(resolve, 20));
      if (bench.draft) return;
    }
    const { id } = bench.image;
    this.sync.finish(id, { reason: isLong ? "good-enough" : "complete", seconds: bench.imageSeconds });
    this.gallery.replaceListed({ ...bench.image, state: "done" });
    this.doneHere++;
    await this.gallery.next();
  }

  private showPicture(picture: ImageBitmap | null, image: ServerImage | null): void {
    this.picture = picture;
    this.colours.clear();
    this.pointed = null;
    this.notices.hide("end");
    this.notices.hide("conflict");
    this.scene.masks = [];
    this.scene.setPicture(picture, image ?? { width: 1, height: 1 });
  }

  private showLoading(isLoading: boolean, problem: string | null): void {
    byId("progress").hidden = !isLoading;
    if (problem) this.notices.show("away", problem, "warn", [{ text: "Reload", run: () => location.reload() }]);
    else this.notices.hide("away");
  }

  private async askWho(): Promise<void> {
    const text = "Your name stands beside every mask that you make.";
    const name = await ask("Who annotates?", text, { input: this.api.annotator || this.server.annotator, yes: "That is me" });
    if (!name) return;
    localStorage.setItem("anymask/annotator", name);
    await this.sync.flushed();
    location.reload();
  }

  // Masks

  private colourOf(annotation: Annotation): Rgb {
    let colour = this.colours.get(annotation.id);
    if (!colour) this.colours.set(annotation.id, (colour = maskColour(this.colours.size)));
    return colour;
  }

  private thumbnail(canvas: HTMLCanvasElement, mask: Mask, colour: Rgb): void {
    drawThumbnail(canvas, this.picture, this.scene.image, mask, colour);
  }

  private toggleHidden(id: string): void {
    const annotation = this.bench.state.annotations.find((other) => other.id === id);
    if (annotation) this.bench.change(id, { hidden: !annotation.hidden });
  }

  /** Accept a proposed mask and go on to the next one. */
  private takeProposed(id: string): void {
    const proposed = this.listed().filter((annotation) => annotation.status === "proposed");
    const at = proposed.findIndex((annotation) => annotation.id === id);
    const next = proposed[at + 1] ?? proposed[at - 1];
    this.bench.change(id, { status: "accepted" });
    this.bench.select(next?.id ?? null);
  }

  /** As they stand in the list: proposed ones first, the latest on top. */
  private listed(): Annotation[] {
    const { annotations } = this.bench.state;
    const of = (status: string) => annotations.filter((annotation) => annotation.status === status).reverse();
    return [...of("proposed"), ...of("accepted")];
  }

  private selectNext(by: 1 | -1): void {
    const listed = this.listed();
    if (!listed.length) return;
    const at = listed.findIndex(({ id }) => id === this.bench.state.selected);
    const next = at < 0 ? (by === 1 ? 0 : listed.length - 1) : Math.max(0, Math.min(at + by, listed.length - 1));
    this.bench.select(listed[next].id);
  }

  private showConflict({ imageId, id, current }: Conflict): void {
    if (imageId !== this.bench.image?.id) return;
    const what = current.status === "deleted" ? "deleted" : "changed";
    this.notices.show("conflict", `${current.changed_by} ${what} this mask in the meantime.`, "bad", [
      {
        text: "Take theirs",
        run: () => {
          this.bench.takeOver(current);
          this.sync.resolve(imageId, id, current);
        },
      },
      { text: "Keep mine", isPrimary: true, run: () => this.sync.resolve(imageId, id, current) },
    ]);
    this.bench.select(id);
  }

  // Drawing the state

  /** The quick way from an answer to the screen; lists and buttons follow when the mask is drawn. */
  private showAnswer(): void {
    this.scene.front.draft = this.bench.draftMask();
    this.scene.front.steps = this.bench.draft?.steps ?? [];
    this.scene.front.preview = null;
    this.scene.drawFront();
  }

  /** At once, but while the decoder works in this page only when it takes its time: one drawing instead of two. */
  private renderInTime(): void {
    clearTimeout(this.renderTimer);
    if (this.decoder.mode === "page" && this.bench.isAsking) this.renderTimer = window.setTimeout(() => this.render(), PATIENCE_MS);
    else this.render();
  }

  private render(): void {
    this.renderScene();
    this.bar.render(this.bench.draft);
    this.panel.render(this.bench.state.annotations, this.bench.state.selected, this.picture);
    this.renderTools();
    this.renderStatus();
    this.renderTime();
    const { image, state } = this.bench;
    const { position, total } = this.gallery;
    this.top.render(image, position, total);
    this.overview.render(this.gallery.images, image?.id ?? null);
    const accepted = state.annotations.filter(({ status }) => status === "accepted").length;
    byId("count").textContent = accepted ? String(accepted) : "";
    byId("hint").hidden = !image || state.annotations.length > 0 || state.draft !== null || this.doneHere > 0;
    const isTouch = matchMedia("(pointer: coarse)").matches;
    byId("hint").textContent = isTouch ? "Tap an object, or draw a box around it." : "Click an object, or drag a box around it. Right click takes away.";
    this.goodEnoughButton.disabled = !image;
    const done = this.gallery.images.filter(({ state }) => state === "done").length;
    (this.doneShare.firstElementChild as HTMLElement).textContent = `${done} of ${total} images done`;
    (this.doneShare.lastElementChild as HTMLElement).style.setProperty("--share", `${total ? (100 * done) / total : 0}%`);
  }

  private renderScene(): void {
    const { scene, bench } = this;
    const { annotations, draft, selected } = bench.state;
    const masks = annotations
      .filter(({ hidden, id }) => !hidden && id !== draft?.id)
      .map((annotation) => ({
        id: annotation.id,
        mask: maskOf(annotation.rle),
        colour: this.colourOf(annotation),
        isProposed: annotation.status === "proposed",
      }));
    scene.setMasks(masks, this.pointed ?? selected);
    scene.front.draft = bench.draftMask();
    scene.front.steps = draft?.steps ?? [];
    this.hands.showVertices();
    if (draft) scene.front.preview = null;
    scene.redrawFront();
  }

  private renderTools(): void {
    const { chosen } = this.hands;
    this.tools.render(this.bench.session);
    byId("canvas").dataset.tool = chosen;
    byId("dock").classList.toggle("has-brush", chosen === "brush" || chosen === "eraser");
    this.hideAllButton.replaceChildren(icon(this.scene.areMasksShown ? "eye" : "closed"));
  }

  private renderStatus(): void {
    this.top.renderStatus(this.sync.state, this.decoder.mode, this.decoder.reason, this.decoder.threads);
  }

  private renderTime(): void {
    const limit = this.server.seconds_per_mask;
    const { seconds } = this.bench;
    const isLong = this.bench.draft !== null && seconds >= limit;
    this.bar.renderTime(seconds, isLong);
    if (isLong === !this.nudge.hidden) return;
    this.nudge.hidden = !isLong;
    this.nudge.replaceChildren(
      h("span", {}, `Over ${limit} s on this mask. A good mask is better than a perfect one.`),
      h("button", { type: "button", class: "button", onclick: () => this.commands.goodEnough() }, "Good enough, next image"),
    );
  }
}
