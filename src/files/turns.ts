// Long work of the JavaScript thread in slices: whoever waits for the thread gets a turn between them.

import { setImmediate } from 'node:timers/promises';

/** A slice takes so long, which nobody notices. */
const SLICE_MS = 5;

export class Turns {
  #sinceMs = performance.now();

  /** Time for others: `next` is to be awaited before the work goes on. */
  get isOver(): boolean {
    return performance.now() - this.#sinceMs > SLICE_MS;
  }

  async next(): Promise<void> {
    await setImmediate();
    this.#sinceMs = performance.now();
  }
}
