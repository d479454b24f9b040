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
  /** By pass, from when it is said until a later pass is asked for; the next one is told to whoever waits. */
  readonly #said = new Map<number, boolean>();
  #decided = 0;
  #told: ((chooses: boolean | undefined) => void) | undefined;
  #closed = false;

  constructor(layerCount: number, passLimit: number) {
    assert(layerCount > 0 && passLimit >= 0, 'a schedule has layers');
    this.layerCount = layerCount;
    this.#passLimit = passLimit;
  }

  /** Says of the next pass whether it brings only what it chooses. */
  decide(chooses: boolean): void {
    this.#said.set(this.#decided++, chooses);
    this.#told?.(chooses);
    this.#told = undefined;
  }

  /** What was said of a pass, as soon as it is; undefined once nothing more is said. Passes are asked for in their order. */
  chooses(passIndex: number): boolean | Promise<boolean | undefined> {
    this.#said.delete(passIndex - 1);
    const known = this.#said.get(passIndex);
    if (known !== undefined) return known;
    return new Promise((resolve) => {
      if (this.#closed) resolve(undefined);
      else this.#told = resolve;
    });
  }

  /** Nothing more is said. */
  close(): void {
    this.#closed = true;
    this.#told?.(undefined);
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
