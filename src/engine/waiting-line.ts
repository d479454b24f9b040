// Requests that no device works on, in the order in which they begin.

import { FairLine } from './fair-line.js';
import { type Sequence, turnOf } from './sequence.js';

/** So many interactive requests may begin before one of a batch that waits. */
const BEFORE_BATCH = 8;

/**
 * Those that had to make room for others come first, then interactive requests, then those of batches: these are not
 * kept waiting forever. Within each kind clients take turns, and a client's own come in their order. Each step takes the
 * same time however many requests wait.
 */
export class WaitingLine {
  readonly #interactive = new Lane();
  readonly #batch = new Lane();
  /** Interactive requests that have begun while one of a batch was waiting. */
  #overtaken = 0;

  get length(): number {
    return this.#interactive.length + this.#batch.length;
  }

  get first(): Sequence | undefined {
    const [interactive, batch] = [this.#interactive.first, this.#batch.first];
    return this.#overtaken >= BEFORE_BATCH ? (batch ?? interactive) : (interactive ?? batch);
  }

  add(sequence: Sequence): void {
    this.#laneOf(sequence).newcomers.add(sequence);
  }

  /** They have begun before. */
  takeBack(sequences: readonly Sequence[]): void {
    for (const sequence of sequences) this.#laneOf(sequence).takeBack(sequence);
  }

  /** A device works on it from now on. */
  begin(sequence: Sequence): void {
    const lane = this.#laneOf(sequence);
    if (lane === this.#batch || this.#batch.length === 0) this.#overtaken = 0;
    else this.#overtaken++;
    lane.begin(sequence);
  }

  /** False where it does not wait. */
  remove(sequence: Sequence): boolean {
    return this.#laneOf(sequence).remove(sequence);
  }

  [Symbol.iterator](): IterableIterator<Sequence> {
    return [...this.#interactive, ...this.#batch].values();
  }

  #laneOf(sequence: Sequence): Lane {
    return turnOf(sequence).kind === 'batch' ? this.#batch : this.#interactive;
  }
}

class Lane {
  readonly newcomers = new FairLine();
  /** Never more than the devices had room for. */
  #returning: readonly Sequence[] = [];

  get length(): number {
    return this.#returning.length + this.newcomers.size;
  }

  get first(): Sequence | undefined {
    return this.#returning[0] ?? this.newcomers.first;
  }

  takeBack(sequence: Sequence): void {
    this.#returning = [...this.#returning, sequence].sort((a, b) => a.arrival - b.arrival);
  }

  begin(sequence: Sequence): void {
    if (!this.newcomers.begin(sequence)) this.remove(sequence);
  }

  remove(sequence: Sequence): boolean {
    if (this.newcomers.delete(sequence)) return true;
    const others = this.#returning.filter((other) => other !== sequence);
    const waited = others.length < this.#returning.length;
    this.#returning = others;
    return waited;
  }

  [Symbol.iterator](): IterableIterator<Sequence> {
    return [...this.#returning, ...this.newcomers].values();
  }
}
