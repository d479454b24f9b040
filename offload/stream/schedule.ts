// The order in which layers are used: a cyclic stream of steps over all passes, so that fetches cross from token to token.

import { assert } from '../errors.js';

/** One residency of one layer: all micro-batches of the pass go through it. */
export interface Step {
  /** 0, 1, 2 … over the whole session. */
  readonly position: number;
  readonly passIndex: number;
  readonly layerIndex: number;
}

/** Derived from the plan's layer count; how many passes there will be may shrink while it runs, never below those begun. */
export class Schedule {
  readonly layerCount: number;
  #passLimit: number;

  constructor(layerCount: number, passLimit: number) {
    assert(layerCount > 0 && passLimit >= 0, 'a schedule has layers');
    this.layerCount = layerCount;
    this.#passLimit = passLimit;
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
