// The largest batch that the tiers hold: found by planning, with the reason why one more does not fit.

import { OperatingError, type Plan } from '../offload/index.js';

/** The search ends here: larger batches are no practical question. */
export const LARGEST_BATCH = 16384;

export interface LargestBatch {
  readonly sequences: number;
  readonly plan: Plan;
  /** What refuses one sequence more; undefined where the search ended for another reason. */
  readonly refusal: string | undefined;
}

/**
 * Doubles until it no longer fits, then halves the gap. Throws what `planBatch` throws for a single sequence.
 * @param planBatch throws DOES_NOT_FIT for a batch that is too large
 */
export function findLargestBatch(
  planBatch: (sequences: number) => Plan,
  most: number = LARGEST_BATCH,
): LargestBatch {
  let [fits, plan] = [1, planBatch(1)];
  let tooLarge = most + 1;
  let refusal: string | undefined;
  const tries = (sequences: number) => {
    try {
      plan = planBatch(sequences);
      fits = sequences;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      tooLarge = sequences;
      refusal = error.message;
    }
  };
  while (2 * fits < tooLarge) tries(2 * fits);
  while (tooLarge - fits > 1) tries(Math.floor((fits + tooLarge) / 2));
  return { sequences: fits, plan, refusal };
}

export function isRefusal(error: unknown): error is OperatingError {
  return error instanceof OperatingError && error.code === 'DOES_NOT_FIT';
}
