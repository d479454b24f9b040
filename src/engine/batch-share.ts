// Which sequences give way: those of batches keep a share of the places, and whoever came last leaves first.

import { type Sequence, turnOf } from './sequence.js';

/** Requests of batches keep one in so many places, and at least one, however many interactive ones come. */
const BATCH_SHARE = 8;

/** Sequences of batches, where there are more than may stay. */
export function yielding(alive: readonly Sequence[], capacity: number): readonly Sequence[] {
  const ofBatch = alive.filter((one) => one.finishReason === undefined && turnOf(one).kind === 'batch');
  return ofBatch.length > Math.max(1, Math.floor(capacity / BATCH_SHARE)) ? ofBatch : [];
}

/** @param some at least one */
export function youngest(some: readonly Sequence[]): Sequence {
  return some.reduce((last, one) => (one.arrival > last.arrival ? one : last));
}
