// Memory to work on that is kept from one call to the next: fresh pages cost more than what is done with them ("measured":
// the outline of a mask of 1200x1000 pixels takes 3 ms in place of 5).

export class Scratch {
  private words = new Uint32Array(0);

  /** `count` zeros, as bytes and as words of four; whatever was taken before is overwritten. */
  take(count: number): { bytes: Uint8Array<ArrayBuffer>; words: Uint32Array<ArrayBuffer> } {
    const needed = (count + 3) >> 2;
    if (this.words.length < needed) this.words = new Uint32Array(needed);
    else this.words.fill(0, 0, needed);
    const words = this.words.subarray(0, needed);
    return { bytes: new Uint8Array(words.buffer, 0, count), words };
  }
}
