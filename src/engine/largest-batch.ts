// The largest batch that the tiers hold: found by planning, with the reason why one more does not fit.

import { counted, OperatingError, type Plan, present, type Tier } from '../../offload/index.js';

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
 * What `--batch_size auto` takes. A larger batch is better until something has to move for it: layers to the drive, keys
 * and values to DRAM, layers off the device. So it is the largest batch before one of these, or the largest at all, or
 * one between: whichever makes most tokens a second by the plans' own reckoning (`Plan.jobMs`). Throws like
 * `findLargestBatch`.
 */
export function findAutoBatch(
  planBatch: (sequences: number) => Plan,
  most: number = LARGEST_BATCH,
): LargestBatch {
  const plans = planOnce(planBatch);
  const single = plans(1);
  const drive: Limit = (plan) => movedToDrive(plan, single);
  const limits: Limit[] = [(plan) => movedOffDevice(plan, single) ?? drive(plan), drive, () => undefined];
  let best: LargestBatch | undefined;
  let before = 1;
  for (const limit of limits) {
    const found = findLargestBatch((sequences) => {
      const plan = plans(sequences);
      const moved = limit(plan);
      if (moved === undefined) return plan;
      throw new OperatingError('DOES_NOT_FIT', moved);
    }, most);
    for (const sequences of sharesOf(before, found.sequences)) {
      const refusal = sequences === found.sequences ? found.refusal : slower(found);
      const batch = { sequences, plan: plans(sequences), refusal };
      if (!best || rateOf(batch) > rateOf(best)) best = batch;
    }
    before = found.sequences;
  }
  return present(best, 'a batch');
}

/** The last texts that fit leave so little memory that micro-batches may have to be small for them. */
const SHARES = [1, 31 / 32, 15 / 16, 7 / 8, 3 / 4];
/** Between two limits, where more moves with every text: as far apart, by how many texts there are. */
const STEPS = 6;

function sharesOf(least: number, most: number): number[] {
  const between = Array.from({ length: STEPS - 1 }, (_, i) => least * (most / least) ** ((i + 1) / STEPS));
  const all = [...SHARES.map((share) => share * most), ...between].map(Math.ceil);
  return [...new Set(all)].sort((a, b) => b - a);
}

function slower({ sequences, refusal }: LargestBatch): string {
  const beyond = refusal === undefined ? '' : `; beyond ${sequences}, ${refusal}`;
  return `all would be slower, with smaller micro-batches or fewer layers at rest${beyond}`;
}

/** Plans are asked for again by whoever looks for a batch with other limits. */
export function planOnce(planBatch: (sequences: number) => Plan): (sequences: number) => Plan {
  const known = new Map<number, Plan | OperatingError>();
  return (sequences) => {
    const before = known.get(sequences) ?? tried(() => planBatch(sequences));
    known.set(sequences, before);
    if (before instanceof OperatingError) throw before;
    return before;
  };
}

function tried(plan: () => Plan): Plan | OperatingError {
  try {
    return plan();
  } catch (error) {
    if (isRefusal(error)) return error;
    throw error;
  }
}

/** What had to move for a batch, as a sentence; undefined: nothing. */
type Limit = (plan: Plan) => string | undefined;

function movedToDrive(plan: Plan, single: Plan): string | undefined {
  const more = layersIn(plan, 'nvme') - layersIn(single, 'nvme');
  return more > 0
    ? `${more} of ${counted(plan.layers.length, 'layer')} would have to rest on the drive`
    : undefined;
}

function movedOffDevice(plan: Plan, single: Plan): string | undefined {
  if (plan.kvBuffers.count > 0 && single.kvBuffers.count === 0) {
    return 'keys and values would have to rest in DRAM';
  }
  const all = plan.layers.length;
  const streams = layersIn(single, 'gpu') === all && layersIn(plan, 'gpu') < all;
  return streams ? `${all - layersIn(plan, 'gpu')} of ${all} layers would have to stream` : undefined;
}

function layersIn({ layers }: Plan, wanted: Tier): number {
  return layers.filter(({ tier }) => tier === wanted).length;
}

/** Sequences per millisecond. */
function rateOf({ sequences, plan: { jobMs } }: LargestBatch): number {
  return sequences / jobMs;
}

export function isRefusal(error: unknown): error is OperatingError {
  return error instanceof OperatingError && error.code === 'DOES_NOT_FIT';
}
