// Pages of blocks that see only the latest tokens, for sequences that a test feeds by itself, without an engine.

import { type MicroBatch, type Plan, pagesFor } from '../../offload/index.js';
import { type HeldPages, type LatePage, LatePages } from '../../src/engine/late-pages.js';

interface Holder {
  readonly pages: LatePage[];
  late: HeldPages[];
}

export class LateFeeds {
  readonly #late: LatePages;
  readonly #pageTokens: number;
  readonly #holders = new Map<unknown, Holder>();

  constructor(plan: Pick<Plan, 'horizons' | 'pageTokens'>) {
    this.#late = new LatePages({ ...plan, keepsPassed: false });
    this.#pageTokens = plan.pageTokens;
  }

  /** @param sequences whose the slices are, in their order: each goes on where it was, or begins */
  place(microBatches: readonly MicroBatch[], sequences: readonly unknown[]): readonly MicroBatch[] {
    const slices = microBatches.flatMap((microBatch) => microBatch.slices);
    const holders = slices.map(({ startPosition, tokens }, index) => {
      const holder = this.#holderOf(sequences[index], startPosition);
      this.#extend(holder, pagesFor(startPosition + tokens.length, this.#pageTokens));
      return holder;
    });
    return this.#late.place(microBatches, holders);
  }

  #holderOf(sequence: unknown, startPosition: number): Holder {
    const known = this.#holders.get(sequence);
    if (known && startPosition > 0) return known;
    if (known) this.#late.leave(known);
    const holder: Holder = { pages: [], late: [] };
    this.#extend(holder, Math.floor(startPosition / this.#pageTokens));
    this.#late.begin(holder);
    this.#holders.set(sequence, holder);
    return holder;
  }

  #extend({ pages }: Holder, count: number): void {
    while (pages.length < count) pages.push({ late: this.#late.newPlaces(), isWritten: false });
  }
}
