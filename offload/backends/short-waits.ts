// Waits for what a device does in a few milliseconds: JavaScript looks again and again, since being woken takes too long.

import { setImmediate } from 'node:timers/promises';

/** Longer waits are slept through. A thread that is woken, and then wakes JavaScript, costs about 50 µs. */
const WORTH_LOOKING_MS = 10;

export class ShortWaits {
  readonly #nowMs: () => number;
  #usualMs = 0;

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /**
   * Resolves when `isDone`, or as `sleep` does where that is not soon. Between two looks JavaScript does whatever else there is.
   * @param isDone must not throw; where it never becomes true, `sleep` says why
   */
  async wait(isDone: () => boolean, sleep: () => Promise<void>): Promise<void> {
    const startMs = this.#nowMs();
    if (!(await this.#look(isDone, startMs))) await sleep();
    this.#usualMs = (3 * this.#usualMs + this.#nowMs() - startMs) / 4;
  }

  async #look(isDone: () => boolean, startMs: number): Promise<boolean> {
    if (this.#usualMs > WORTH_LOOKING_MS) return isDone();
    while (!isDone()) {
      if (this.#nowMs() - startMs > 2 * WORTH_LOOKING_MS) return false;
      await setImmediate();
    }
    return true;
  }
}
