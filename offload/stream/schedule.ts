// The order in which layers are used: a cyclic stream of steps over all passes, so that fetches cross from token to token.

import { assert } from '../errors.js';

/** One residency of one layer: all micro-batches of the pass go through it. */
export interface Step {
  /** 0, 1, 2 … over the whole session. */
  readonly position: number;
  readonly passIndex: number;
  readonly layerIndex: number;
  /** The pass brings only the experts that it chooses, so that layers with slots are there but for these. */
  readonly chooses?: boolean;
}

/** Derived from the plan's layer count; how many passes there will be may shrink while it runs, never below those begun. */
export class Schedule {
  readonly layerCount: number;
  #passLimit: number;
  /** By pass, from when it is said until a later pass is asked for. */
  readonly #said = new Map<number, boolean>();
  #decided = 0;
  /** The first pass of which nothing was said is expected to have whole layers. */
  #expectsWhole = false;
  /** Who asked for a pass of which nothing is known yet. */
  #waiting: { readonly passIndex: number; readonly tell: (chooses: boolean | undefined) => void } | undefined;
  #closed = false;

  constructor(layerCount: number, passLimit: number) {
    assert(layerCount > 0 && passLimit >= 0, 'a schedule has layers');
    this.layerCount = layerCount;
    this.#passLimit = passLimit;
  }

  /**
   * Says of the next pass whether it brings only what it chooses.
   * @param expectsWhole the one after it will not, as far as is known: until it is said, layers are fetched for that
   */
  decide(chooses: boolean, expectsWhole = false): void {
    this.#said.set(this.#decided++, chooses);
    this.#expectsWhole = expectsWhole;
    const known = this.#waiting && this.#known(this.#waiting.passIndex);
    if (known !== undefined) this.#tell(known);
  }

  /**
   * What was said of a pass, as soon as it is, or what is expected of it; undefined once nothing more is said. Passes are asked for in
   * their order. Where another thing comes than was expected, whole layers serve those that choose as well.
   */
  chooses(passIndex: number): boolean | Promise<boolean | undefined> {
    for (const earlier of this.#said.keys()) if (earlier < passIndex) this.#said.delete(earlier);
    const known = this.#known(passIndex);
    if (known !== undefined) return known;
    return new Promise((tell) => {
      if (this.#closed) tell(undefined);
      else this.#waiting = { passIndex, tell };
    });
  }

  #known(passIndex: number): boolean | undefined {
    const isExpected = this.#expectsWhole && passIndex === this.#decided && !this.#closed;
    return this.#said.get(passIndex) ?? (isExpected ? false : undefined);
  }

  #tell(chooses: boolean | undefined): void {
    this.#waiting?.tell(chooses);
    this.#waiting = undefined;
  }

  /** Nothing more is said. */
  close(): void {
    this.#closed = true;
    this.#tell(undefined);
  }

  get passLimit(): number {
    return this.#passLimit;
  }

  /** No steps at or after this pass. */
  limitPasses(passLimit: number): void {
    this.#passLimit = Math.min(this.#passLimit, passLimit);
  }

  /** The next element is the next step: the last layer of a pass is followed by the first of the next pass. */
  *steps(): Generator<Step, void> {
    for (let passIndex = 0; passIndex < this.#passLimit; passIndex++) {
      for (let layerIndex = 0; layerIndex < this.layerCount && passIndex < this.#passLimit; layerIndex++) {
        yield { position: passIndex * this.layerCount + layerIndex, passIndex, layerIndex };
      }
    }
  }
}
