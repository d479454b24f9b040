// Which places there are, a bit for each: a set of numbers ends at 2²⁴ of them, and jobs have more texts.

/** As much of a set as asking takes. */
export type Places = Pick<ReadonlySet<number>, 'has' | 'size'> & Iterable<number>;

export class PlaceSet implements Places {
  #bits = new Uint8Array(1024);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  has(place: number): boolean {
    return ((this.#bits[Math.floor(place / 8)] ?? 0) & (1 << (place % 8))) !== 0;
  }

  add(place: number): void {
    if (this.has(place)) return;
    const index = Math.floor(place / 8);
    if (index >= this.#bits.length) {
      const room = new Uint8Array(Math.max(index + 1, 2 * this.#bits.length));
      room.set(this.#bits);
      this.#bits = room;
    }
    this.#bits[index] = (this.#bits[index] ?? 0) | (1 << (place % 8));
    this.#size++;
  }

  /** In increasing order. */
  *[Symbol.iterator](): Generator<number, void> {
    for (const [index, bits] of this.#bits.entries()) {
      for (let bit = 0; bits >> bit > 0; bit++) if ((bits >> bit) & 1) yield 8 * index + bit;
    }
  }

  static of(places: Iterable<number>): PlaceSet {
    const set = new PlaceSet();
    for (const place of places) set.add(place);
    return set;
  }
}
