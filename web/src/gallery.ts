// Which image is on the bench: the queue, leases, forward and back.

import type { Api, ServerImage } from "./api";
import type { Decoder } from "./decoder/decoder";
import { backoff, Refused, sleep, Unreachable } from "./fetch";
import type { Sync } from "./sync";
import { mergedAnnotations, type Workbench } from "./workbench";

export interface GalleryView {
  /** An image is being fetched (its name, if known), or nothing is. */
  onLoading(isLoading: boolean, problem: string | null): void;
  onPicture(picture: ImageBitmap | null, image: ServerImage | null): void;
  /** Somebody else works on the image: resolves true to take it over. */
  askTakeOver(holder: string, fileName: string): Promise<boolean>;
  onNothingLeft(): void;
  onNotice(text: string): void;
}

const PAGE = 500;

export class Gallery {
  /** All images of the folder, in order; filled in the background. */
  images: ServerImage[] = [];
  total = 0;

  private isMoving = false;
  private renewal = 0;

  constructor(
    private readonly api: Api,
    private readonly sync: Sync,
    private readonly decoder: Decoder,
    private readonly bench: Workbench,
    private readonly view: GalleryView,
    private readonly leaseSeconds: number,
  ) {}

  get position(): number {
    return this.images.findIndex(({ id }) => id === this.bench.image?.id);
  }

  get isBusy(): boolean {
    return this.isMoving;
  }

  /** Go on where this person left off. */
  async start(): Promise<void> {
    void this.listImages();
    await this.move(async () => (await this.api.next(null)).image);
  }

  /** The next image that is open and free. */
  async next(): Promise<void> {
    const after = this.bench.image?.id ?? null;
    await this.move(async () => (await this.api.next(after)).image);
  }

  /** The image before in the folder, done or not. */
  async previous(): Promise<void> {
    const before = this.images[this.position - 1];
    if (before) await this.open(before.id);
  }

  async open(id: number): Promise<void> {
    await this.move(() => this.leased(id));
  }

  private async leased(id: number): Promise<ServerImage> {
    try {
      return await this.api.lease(id, false);
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== "leased") throw error;
      const { lease, file_name } = error.body.current as ServerImage;
      if (!(await this.view.askTakeOver(lease?.holder ?? "Somebody", file_name))) throw new Stay();
      return this.api.lease(id, true);
    }
  }

  /** Bring another image onto the bench, waiting for a server that is away. */
  private async move(find: () => Promise<ServerImage | null>): Promise<void> {
    if (this.isMoving) return;
    this.isMoving = true;
    try {
      await this.sync.flushed();
      this.view.onLoading(true, null);
      const image = await this.patiently(find);
      if (image) await this.patiently(() => this.show(image));
      else {
        this.bench.close();
        this.view.onPicture(null, null);
        this.view.onNothingLeft();
      }
    } catch (error) {
      if (!(error instanceof Stay)) this.view.onNotice(error instanceof Error ? error.message : String(error));
    }
    this.isMoving = false;
    this.view.onLoading(false, null);
    void this.ready();
  }

  private async patiently<T>(work: () => Promise<T>): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof Unreachable)) throw error;
        if (attempt > 0) this.view.onLoading(true, "The server is away. Trying again.");
        await sleep(backoff(attempt));
      }
    }
  }

  private async show(image: ServerImage): Promise<void> {
    const [picture, annotations, draft] = await Promise.all([
      this.api.picture(image.id).then((blob) => createImageBitmap(blob)),
      this.api.annotations(image.id),
      this.api.draft(image.id),
    ]);
    const leftover = this.sync.open(image.id, annotations, draft);
    if (leftover) this.sync.adopt(image.id, leftover);
    this.view.onPicture(picture, image);
    this.bench.open(image, annotations, draft, leftover);
    this.replaceListed(image);
    clearInterval(this.renewal);
    this.renewal = window.setInterval(() => void this.renew(image.id), (1000 * this.leaseSeconds) / 3);
  }

  private async renew(id: number): Promise<void> {
    try {
      await this.api.lease(id, false);
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== "leased") return;
      const { lease } = error.body.current as ServerImage;
      this.view.onNotice(`${lease?.holder ?? "Somebody else"} works on this image now. What you accept is kept all the same.`);
    }
  }

  /** Wait until clicks are answered at once, then fetch the next image's embedding ahead. */
  private async ready(): Promise<void> {
    const { image } = this.bench;
    if (!image) return;
    this.view.onLoading(true, null);
    try {
      await this.decoder.load(image.id);
    } catch (error) {
      if (this.bench.image === image) this.view.onNotice(`Clicks on this image get no answer: ${(error as Error).message}`);
    }
    if (this.isMoving) return;
    this.view.onLoading(false, null);
    const next = this.images.slice(this.position + 1).find(({ state, lease }) => state === "open" && (!lease || lease.mine));
    if (!next || this.bench.image !== image || this.decoder.mode !== "page") return;
    void this.decoder.load(next.id).catch(() => {});
    void this.api.picture(next.id).catch(() => {});
  }

  /** All images as the server has them now. */
  async listImages(): Promise<void> {
    const found: ServerImage[] = [];
    do {
      const page = await this.patiently(() => this.api.images(found.length, PAGE));
      this.total = page.total;
      found.push(...page.images);
      if (!page.images.length) break;
    } while (found.length < this.total);
    this.images = found;
    this.bench.onChange();
  }

  replaceListed(image: ServerImage): void {
    const index = this.images.findIndex(({ id }) => id === image.id);
    if (index >= 0) this.images[index] = image;
  }

  /** Tell the server what an earlier page left untold on images that are not open now. */
  async recover(): Promise<void> {
    for (const id of this.sync.imagesLeft()) {
      if (id === this.bench.image?.id) continue;
      try {
        const annotations = await this.api.annotations(id);
        const leftover = this.sync.open(id, annotations, await this.api.draft(id));
        if (!leftover) continue;
        this.sync.adopt(id, leftover);
        this.sync.want(id, mergedAnnotations(annotations, leftover), leftover.work, leftover.draft ?? null);
      } catch {
        // It stays in the browser's storage and is tried again the next time.
      }
    }
  }
}

/** The person chose to stay where they are. */
class Stay extends Error {}
