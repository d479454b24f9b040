// What simulated devices sum through: each pushes its part into the others' memory, waits for theirs, and sums, every access checked.

import { present } from '../../offload/errors.js';
import type { Exchange } from '../../offload/port/exchange.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import type { VirtualClock } from './clock.js';
import type { Failure } from './collective.js';
import { runsOf } from './footprint.js';
import { mix } from './hashes.js';
import {
  type Access,
  type ByteRun,
  beginAccess,
  endAccess,
  HazardError,
  markWritten,
  requireWritten,
  type SimulatedMemory,
} from './memory.js';
import { floatBits, wordRows } from './op-rows.js';

type ReduceOp = Extract<Op, { op: 'reduce' }>;

/** The stream that has come to a reduce. */
export interface Summing {
  readonly who: string;
  kernelMs(): number;
  /** Nothing goes on until the others have come. */
  waits(): void;
  done(failure: Failure | undefined): void;
}

export class SimulatedExchange implements Exchange {
  readonly id: number;
  readonly rank: number;
  readonly count: number;
  readonly sizeBytes: number;
  /** Memory of its device: a place by parity of the round and by rank. */
  readonly inbox: SimulatedMemory;
  readonly #clock: VirtualClock;
  readonly #group: SimulatedExchange[];
  #round = 0;
  #pushed = 0;
  #failure: Failure | undefined;
  #waiting: (() => void)[] = [];

  /** @param group where it enters itself */
  constructor(
    group: SimulatedExchange[],
    { id, count, sizeBytes }: Pick<Exchange, 'id' | 'count' | 'sizeBytes'>,
    inbox: SimulatedMemory,
    clock: VirtualClock,
  ) {
    this.id = id;
    this.rank = group.length;
    this.count = count;
    this.sizeBytes = sizeBytes;
    this.inbox = inbox;
    this.#clock = clock;
    this.#group = group;
    group.push(this);
  }

  sum(op: ReduceOp, summing: Summing): void {
    this.#push(op, 0, summing);
  }

  /** Nobody of the group waits for another any more. */
  fail(failure: Failure): void {
    for (const end of this.#group) {
      end.#failure ??= failure;
      end.#wake();
    }
  }

  parityOf(round: number): number {
    return round % 2;
  }

  hasCome(other: SimulatedExchange, round: number): boolean {
    return other.#pushed >= round;
  }

  /** Values from `first` on, as many as there is room for. */
  #push(op: ReduceOp, first: number, summing: Summing): void {
    const values = wordsOf(op.partial);
    if (first >= values.length || this.#failure) {
      summing.done(this.#failure);
      return;
    }
    const part = values.slice(first, first + Math.floor(this.sizeBytes / 4));
    const round = ++this.#round;
    const slots = this.#group
      .filter((end) => end !== this)
      .map((end) => end.#slot(this.parityOf(round), this.rank, part.length));
    const access = this.#begin(`${summing.who}, pushing`, runsOf(op.partial), slots);
    this.#clock.after(summing.kernelMs(), () => {
      for (const { memory, start } of slots) memory.words.set(part, start / 4);
      this.#end(access);
      this.#pushed = round;
      for (const end of this.#group) end.#wake();
      this.#await(round, summing, () => this.#add(op, { first, part, round }, summing));
    });
  }

  #await(round: number, summing: Summing, then: () => void): void {
    if (this.#failure) {
      summing.done(this.#failure);
    } else if (this.#group.every((end) => this.hasCome(end, round))) {
      then();
    } else {
      summing.waits();
      this.#waiting.push(() => this.#await(round, summing, then));
    }
  }

  #wake(): void {
    for (const look of this.#waiting.splice(0)) this.#clock.after(0, look);
  }

  #add(
    op: ReduceOp,
    { first, part, round }: { first: number; part: Int32Array; round: number },
    summing: Summing,
  ) {
    const slots = this.#group.map((end) => this.#slot(this.parityOf(round), end.rank, part.length));
    const others = slots.filter((_, rank) => rank !== this.rank);
    const own = op.accumulate ? [...runsOf(op.partial), ...runsOf(op.x)] : runsOf(op.partial);
    const access = this.#begin(`${summing.who}, summing`, [...others, ...own], runsOf(op.x));
    this.#clock.after(summing.kernelMs(), () => {
      const parts = slots.map(({ memory, start }, rank) =>
        rank === this.rank ? part : memory.words.slice(start / 4, start / 4 + part.length),
      );
      const sums = wordsOf(op.x);
      part.forEach((_, i) => {
        const hash = parts.reduce((sum, words) => mix(sum, present(words[i], 'a value')), 29);
        const before = op.accumulate ? (sums[first + i] ?? 0) : 0;
        sums[first + i] = floatBits(mix(hash, before));
      });
      putWords(op.x, sums);
      this.#end(access);
      this.#push(op, first + part.length, summing);
    });
  }

  #slot(parity: number, from: number, values: number): ByteRun {
    const start = (parity * this.count + from) * this.sizeBytes;
    return { memory: this.inbox, start, end: start + 4 * values };
  }

  #begin(who: string, reads: ByteRun[], writes: ByteRun[]): Access {
    const access = { who, startMs: this.#clock.nowMs, reads, writes };
    beginAccess(access);
    requireWritten(access);
    return access;
  }

  #end(access: Access): void {
    markWritten(access.writes);
    endAccess(access);
  }
}

export function exchangeOf(op: ReduceOp): SimulatedExchange {
  const { exchange } = op;
  if (!(exchange instanceof SimulatedExchange)) throw new HazardError('a group of another backend');
  return exchange;
}

/** The values of a tensor, row after row. */
function wordsOf(tensor: Tensor): Int32Array {
  const { words, starts, length } = wordRows(tensor);
  const found = new Int32Array(starts.length * length);
  starts.forEach((start, row) => {
    found.set(words.subarray(start, start + length), row * length);
  });
  return found;
}

function putWords(tensor: Tensor, values: Int32Array): void {
  const { words, starts, length } = wordRows(tensor);
  starts.forEach((start, row) => {
    words.set(values.subarray(row * length, (row + 1) * length), start);
  });
}
