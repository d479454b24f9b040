// A virtual clock: it advances only when JavaScript has nothing left to do, and says so when nothing can ever happen.

import { assert, present } from '../../offload/errors.js';
import type { Random } from './random.js';

/** Everybody waits and no event is left that could wake anyone. */
export class DeadlockError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'DeadlockError';
  }
}

interface Due {
  readonly timeMs: number;
  /** Events of the same time happen in any order. */
  readonly tieBreak: number;
  readonly run: () => void;
}

interface Waiting {
  readonly what: string;
  reject(error: unknown): void;
}

/** A promise that virtual time will settle. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(error: unknown): void;
}

/** After so many, who still waits would wait for ever. */
const QUIET_TURNS = 3;

export class VirtualClock {
  readonly #random: Random;
  readonly #describe: () => string;
  readonly #heap: Due[] = [];
  readonly #pending = new Set<Waiting>();
  readonly #callers = new Set<Waiting>();
  #nowMs = 0;
  #armed = false;
  /** In which nothing happened, one after the other. */
  #quietTurns = 0;
  #heard = false;
  #failure: { readonly error: unknown } | undefined;

  /** @param describe who waits on what, for the message of a deadlock */
  constructor(random: Random, describe: () => string) {
    this.#random = random;
    this.#describe = describe;
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Why the clock stands still for good: a hazard, a deadlock, or the end of the backend. */
  get failure(): { readonly error: unknown } | undefined {
    return this.#failure;
  }

  after(delayMs: number, run: () => void): void {
    assert(delayMs >= 0, 'time does not run backwards');
    if (this.#failure) return;
    this.#push({ timeMs: this.#nowMs + delayMs, tieBreak: this.#random.bits(), run });
    this.#arm();
  }

  /** Rejects by itself when the clock stops. */
  deferred<T>(what: string): Deferred<T> {
    const { promise, resolve, reject } = withResolvers<T>();
    const waiting = { what, reject };
    if (this.#failure) reject(this.#failure.error);
    else this.#pending.add(waiting);
    const settle = (act: () => void) => {
      this.#pending.delete(waiting);
      // JavaScript has something to do now, so time stands still until it has done it.
      this.#heard = true;
      act();
    };
    return {
      promise,
      resolve: (value) => settle(() => resolve(value)),
      reject: (error) => settle(() => reject(error)),
    };
  }

  /** The promise, or a rejection as soon as a hazard is found or nothing is left that could settle it. */
  until<T>(promise: Promise<T>, what: string): Promise<T> {
    const { promise: result, resolve, reject } = withResolvers<T>();
    const caller = { what, reject };
    this.#callers.add(caller);
    promise.then(
      (value) => {
        this.#callers.delete(caller);
        resolve(value);
      },
      (error: unknown) => {
        this.#callers.delete(caller);
        reject(error);
      },
    );
    if (this.#failure) this.#giveUpSoon();
    else this.#arm();
    return result;
  }

  /** Something is wrong: nothing happens any more, and everybody is told. */
  fail(error: unknown): void {
    if (this.#failure) return;
    const callers = [...this.#callers];
    this.#callers.clear();
    this.#stop(error);
    for (const { reject } of callers) reject(error);
  }

  /** Nothing happens any more; what waits for virtual time is rejected, and what hangs nevertheless is a deadlock. */
  close(error: unknown): void {
    if (this.#failure) return;
    this.#stop(error);
    this.#giveUpSoon();
  }

  #stop(error: unknown): void {
    this.#failure = { error };
    this.#heap.length = 0;
    for (const { reject } of this.#pending) reject(error);
    this.#pending.clear();
  }

  /** Rejections need no virtual time to spread: after a few turns, who still waits would wait for ever. */
  #giveUpSoon(turns = QUIET_TURNS): void {
    setImmediate(() => {
      if (turns > 0) {
        this.#giveUpSoon(turns - 1);
        return;
      }
      for (const { what, reject } of this.#callers) {
        reject(new DeadlockError(`the clock has stopped, but ${what} never ended; ${this.#describe()}`));
      }
      this.#callers.clear();
    });
  }

  #arm(): void {
    if (this.#armed) return;
    this.#armed = true;
    // All microtasks run before the next turn, so a turn begins when JavaScript waits.
    setImmediate(() => this.#turn());
  }

  #turn(): void {
    this.#armed = false;
    if (this.#failure) return;
    this.#heard = false;
    for (;;) {
      const due = this.#pop();
      if (!due) break;
      this.#nowMs = due.timeMs;
      try {
        due.run();
      } catch (error) {
        this.fail(error);
        return;
      }
      if (this.#heard) break;
    }
    if (this.#heap.length > 0 || this.#heard) {
      this.#quietTurns = 0;
      this.#arm();
    } else if (this.#callers.size > 0) {
      // JavaScript may let a turn or two pass by itself before it asks for more.
      if (this.#quietTurns++ < QUIET_TURNS) this.#arm();
      else this.fail(this.#deadlock());
    }
  }

  #deadlock(): DeadlockError {
    const callers = [...this.#callers].map(({ what }) => what).join(', ');
    const pending = [...this.#pending].map(({ what }) => what).join(', ') || 'nothing';
    return new DeadlockError(
      `at ${this.#nowMs.toFixed(3)} ms nothing can happen any more; callers wait for ${callers}; ` +
        `promises out: ${pending}; ${this.#describe()}`,
    );
  }

  #push(due: Due): void {
    const heap = this.#heap;
    let index = heap.push(due) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      const above = heap[parent];
      if (!above || !before(due, above)) break;
      heap[index] = above;
      index = parent;
    }
    heap[index] = due;
  }

  #pop(): Due | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (!first || !last || heap.length === 0) return first;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      const [left, right] = [heap[child], heap[child + 1]];
      if (!left) break;
      if (right && before(right, left)) child++;
      const least = heap[child];
      if (!least || !before(least, last)) break;
      heap[index] = least;
      index = child;
    }
    heap[index] = last;
    return first;
  }
}

function before(a: Due, b: Due): boolean {
  return a.timeMs < b.timeMs || (a.timeMs === b.timeMs && a.tieBreak < b.tieBreak);
}

function withResolvers<T>(): Deferred<T> {
  let settle: { resolve(value: T): void; reject(error: unknown): void } | undefined;
  const promise = new Promise<T>((resolve, reject) => {
    settle = { resolve, reject };
  });
  return { promise, ...present(settle, 'resolvers') };
}
