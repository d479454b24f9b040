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

/**
 * What `--batch_size auto` takes: the largest batch for which no layer has to rest on the drive that does not have to
 * for a single sequence. A larger one gains less by its size than every step loses by reading from the drive.
 * Throws like `findLargestBatch`.
 */
export function findAutoBatch(
  planBatch: (sequences: number) => Plan,
  most: number = LARGEST_BATCH,
): LargestBatch {
  const least = layersOnDrive(planBatch(1));
  return findLargestBatch((sequences) => {
    const plan = planBatch(sequences);
    const more = layersOnDrive(plan) - least;
    if (more <= 0) return plan;
    throw new OperatingError(
      'DOES_NOT_FIT',
      `${more} of ${plan.layers.length} layers would have to rest on the drive`,
    );
  }, most);
}

function layersOnDrive({ layers }: Plan): number {
  return layers.filter(({ tier }) => tier === 'nvme').length;
}

export function isRefusal(error: unknown): error is OperatingError {
  return error instanceof OperatingError && error.code === 'DOES_NOT_FIT';
}
