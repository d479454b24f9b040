// Requests that no device works on, in the order in which they begin.

import { FirstCome } from './first-come.js';
import type { Sequence } from './sequence.js';

/** Those that had to make room for others come first; else whoever came first. Each step takes the same time however many wait. */
export class WaitingLine {
  readonly #newcomers = new FirstCome<Sequence>();
  /** Never more than the devices had room for. */
  #returning: readonly Sequence[] = [];

  get length(): number {
    return this.#returning.length + this.#newcomers.size;
  }

  get first(): Sequence | undefined {
    return this.#returning[0] ?? this.#newcomers.first;
  }

  add(sequence: Sequence): void {
    this.#newcomers.add(sequence);
  }

  /** They have begun before. */
  takeBack(sequences: readonly Sequence[]): void {
    if (sequences.length === 0) return;
    this.#returning = [...this.#returning, ...sequences].sort((a, b) => a.arrival - b.arrival);
  }

  /** False where it does not wait. */
  remove(sequence: Sequence): boolean {
    if (this.#newcomers.delete(sequence)) return true;
    const others = this.#returning.filter((other) => other !== sequence);
    const waited = others.length < this.#returning.length;
    this.#returning = others;
    return waited;
  }

  [Symbol.iterator](): IterableIterator<Sequence> {
    return [...this.#returning, ...this.#newcomers].values();
  }
}
