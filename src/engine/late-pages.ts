// Pages of blocks that see only the latest tokens: taken as tokens come, given back once no later token reads them.

import {
  assert,
  firstRead,
  type HorizonPages,
  type MicroBatch,
  type PageRun,
  pagesFor,
  present,
  type SequenceSlice,
} from '../../offload/index.js';
import { FirstCome } from './first-come.js';

/** What a page of a sequence has of one horizon. */
export interface LatePlace {
  /** Undefined before it is written, and once its place has gone to another. */
  number: number | undefined;
  /** How many sequences still read it. */
  holders: number;
}

/** A page, by horizon. */
export interface LatePage {
  readonly late: readonly LatePlace[];
  readonly isWritten: boolean;
}

/** Pages `first` to `end` of a sequence, which it still reads in the blocks of one horizon. */
export interface HeldPages {
  readonly first: number;
  readonly end: number;
  /** As passes take them; undefined where that has changed. */
  readonly run: PageRun | undefined;
}

export interface LateHolder {
  readonly pages: readonly LatePage[];
  /** By horizon. */
  late: HeldPages[];
}

export interface LateOptions {
  readonly horizons: readonly HorizonPages[];
  readonly pageTokens: number;
  /**
   * What a sequence has moved on from stays where it is until the place is wanted, for others that begin alike. Without,
   * a sequence takes its own places again, so that neighbours travel together where keys and values rest in DRAM.
   */
  readonly keepsPassed: boolean;
}

/** The places of one horizon. */
class Places {
  readonly #index: number;
  readonly #empty: number[];
  /** Pages that nobody reads now, whose content is still there; the first is given up first. */
  readonly #kept = new FirstCome<LatePage>();

  constructor(count: number, index: number) {
    this.#index = index;
    this.#empty = Array.from({ length: count }, (_, place) => count - 1 - place);
  }

  get free(): number {
    return this.#empty.length + this.#kept.size;
  }

  hold(page: LatePage): void {
    this.#of(page).holders++;
    this.#kept.delete(page);
  }

  /** The page's place; one that has none yet is given one. */
  place(page: LatePage): number {
    const place = this.#of(page);
    place.number ??= this.#take();
    return place.number;
  }

  release(page: LatePage, keeps: boolean): void {
    const place = this.#of(page);
    assert(place.holders > 0, 'a page of a horizon is given back once by each holder');
    if (--place.holders > 0 || place.number === undefined) return;
    if (keeps) this.#kept.add(page);
    else this.drop(page);
  }

  /** Its content is not to be found any more. */
  drop(page: LatePage): void {
    const place = this.#of(page);
    assert(place.holders === 0, 'nobody reads a page that is given up');
    this.#kept.delete(page);
    if (place.number !== undefined) this.#empty.push(place.number);
    place.number = undefined;
  }

  #take(): number {
    const number = this.#empty.pop();
    if (number !== undefined) return number;
    this.drop(present(this.#kept.first, 'free page of a horizon'));
    return present(this.#empty.pop(), 'free page of a horizon');
  }

  #of({ late }: LatePage): LatePlace {
    return present(late[this.#index], 'place of a horizon');
  }
}

/**
 * For each horizon of the plan, which pages of every sequence have a place. The plan has as many as all sequences need
 * between micro-batches, and one micro-batch beside, so a place is always found.
 */
export class LatePages {
  readonly #options: LateOptions;
  readonly #places: readonly Places[];

  constructor(options: LateOptions) {
    this.#options = options;
    this.#places = options.horizons.map(({ pages }, index) => new Places(pages, index));
  }

  /** Places that nobody reads, by horizon. */
  get freePlaces(): readonly number[] {
    return this.#places.map(({ free }) => free);
  }

  newPlaces(): LatePlace[] {
    return this.#places.map(() => ({ number: undefined, holders: 0 }));
  }

  /** With how many of these pages a sequence can begin, at most: what it goes on to read has to be there, or to come. */
  usable(pages: readonly LatePage[]): number {
    if (this.#places.length === 0) return pages.length;
    const lastGone = this.#places.map(() => -1);
    let most = 0;
    for (const [index, page] of pages.entries()) {
      page.late.forEach(({ number }, horizon) => {
        if (number === undefined && page.isWritten) lastGone[horizon] = index;
      });
      if (lastGone.every((gone, horizon) => gone < this.#firstPage(horizon, index + 1))) most = index + 1;
    }
    return most;
  }

  /** A sequence goes on behind the pages that it has. */
  begin(holder: LateHolder): void {
    const end = holder.pages.length;
    holder.late = this.#places.map((places, horizon) => {
      const first = this.#firstPage(horizon, end);
      for (const page of holder.pages.slice(first)) places.hold(page);
      return { first, end, run: undefined };
    });
  }

  /** It reads none of its pages any more. */
  leave(holder: LateHolder): void {
    holder.late.forEach(({ first, end }, horizon) => {
      const places = present(this.#places[horizon], 'places');
      for (let index = end - 1; index >= first; index--) {
        places.release(present(holder.pages[index], 'page'), true);
      }
    });
    holder.late = [];
  }

  /** Nobody finds the page any more. */
  drop(page: LatePage): void {
    for (const places of this.#places) places.drop(page);
  }

  /**
   * The micro-batches with the places of their slices. What a micro-batch leaves behind is free for those that follow it,
   * as each block takes them in this order.
   * @param holders whose the slices are, in their order
   */
  place(microBatches: readonly MicroBatch[], holders: readonly LateHolder[]): readonly MicroBatch[] {
    if (this.#places.length === 0) return microBatches;
    let next = 0;
    return microBatches.map((microBatch) => {
      const owners = holders.slice(next, next + microBatch.slices.length);
      next += owners.length;
      const slices = microBatch.slices.map((slice, index) => ({
        ...slice,
        latestPages: this.#take(present(owners[index], 'holder'), slice),
      }));
      slices.forEach((slice, index) => {
        this.#pass(present(owners[index], 'holder'), slice.startPosition + slice.tokens.length);
      });
      return { ...microBatch, slices };
    });
  }

  #firstPage(horizon: number, pages: number): number {
    return this.#firstPageAt(horizon, pages * this.#options.pageTokens);
  }

  #firstPageAt(horizon: number, position: number): number {
    const { horizons, pageTokens } = this.#options;
    return Math.floor(firstRead(present(horizons[horizon], 'horizon').horizon, position) / pageTokens);
  }

  #take(holder: LateHolder, { startPosition, tokens }: SequenceSlice): PageRun[] {
    const end = pagesFor(startPosition + tokens.length, this.#options.pageTokens);
    return this.#places.map((places, horizon) => {
      const held = present(holder.late[horizon], 'held pages');
      if (held.run && held.end === end) return held.run;
      for (const page of holder.pages.slice(held.end, end)) places.hold(page);
      const pages = holder.pages.slice(held.first, end).map((page) => places.place(page));
      const run = { firstPage: held.first, pages };
      holder.late[horizon] = { first: held.first, end, run };
      return run;
    });
  }

  /** The next token of the sequence is at `position`. */
  #pass(holder: LateHolder, position: number): void {
    this.#places.forEach((places, horizon) => {
      const { first, end } = present(holder.late[horizon], 'held pages');
      const read = this.#firstPageAt(horizon, position);
      if (read === first) return;
      for (let index = read - 1; index >= first; index--) {
        places.release(present(holder.pages[index], 'page'), this.#options.keepsPassed);
      }
      holder.late[horizon] = { first: read, end, run: undefined };
    });
  }
}
