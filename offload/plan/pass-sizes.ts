// What one pass writes and yields beside its layers: how large integer tables, results and places are.

import type { ModelSpec } from '../model/model.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type { Plan } from './plan.js';

/** What of a plan they depend on. */
type Counts = Pick<
  Plan,
  | 'nll'
  | 'readLogits'
  | 'sequences'
  | 'passTokens'
  | 'microBatchTokens'
  | 'logitRows'
  | 'logitColumns'
  | 'historyTokens'
  | 'addedTokens'
  | 'topLogProbs'
  | 'maskWords'
  | 'horizons'
>;

/** Words that every token has beside its place: a row per table, and itself where blocks ask for it. */
export function rowsPerToken({ tables, blocksReadTokens = false }: ModelSpec): number {
  return tables.length + Number(blocksReadTokens);
}

export interface PassSizes {
  /** Rows that the head takes. */
  readonly headRows: number;
  /** Int32 words of tables. */
  readonly controlWords: number;
  readonly resultBytes: number;
  /** Where the tokens of every other pass go that begins before the one before it has ended, among the results. */
  readonly tokensAheadOffset: number;
  readonly placeBytes: number;
  /** A mask per sequence. */
  readonly maskBytes: number;
}

/** @param tokenRows see rowsPerToken; @param pagesPerSequence of the longest one */
export function passSizes(plan: Counts, tokenRows: number, pagesPerSequence: number): PassSizes {
  const headRows = headRowsOf(plan);
  const logitsRead = plan.readLogits ? plan.logitRows * plan.logitColumns : 0;
  const ownBytes = resultBytes(headRows, plan.topLogProbs, logitsRead);
  return {
    headRows,
    controlWords: controlWords(plan, tokenRows, pagesPerSequence),
    resultBytes: ownBytes + (plan.nll || plan.readLogits ? 0 : headRows * DTYPE_BYTES.i32),
    tokensAheadOffset: ownBytes,
    placeBytes: (plan.passTokens + headRows) * DTYPE_BYTES.i32,
    maskBytes: plan.sequences * plan.maskWords * DTYPE_BYTES.i32,
  };
}

/** Rows that the head takes in one pass. */
export function headRowsOf({
  nll,
  sequences,
  passTokens,
}: Pick<Counts, 'nll' | 'sequences' | 'passTokens'>): number {
  return nll ? passTokens : sequences;
}

/** Words of an output's log-softmax, as `nll_fold` leaves it. */
export const LIKELIHOOD_WORDS = 3;

/** Words of one of the likeliest tokens: itself and its logit. */
const TOP_TOKEN_WORDS = 2;

/** Words of what an output of a text yields at most: its token, how likely it is, and the likeliest in its place. */
export function outputWords(topLogProbs: number): number {
  return 1 + LIKELIHOOD_WORDS + TOP_TOKEN_WORDS * topLogProbs;
}

/** Bytes of what one pass yields at most: a token, its likelihood sums and the likeliest ones per output, or whole rows of logits. */
function resultBytes(headRows: number, topLogProbs: number, logitsRead: number): number {
  return Math.max(headRows * outputWords(topLogProbs), logitsRead) * DTYPE_BYTES.f32;
}

/**
 * Tables of pages have a length that is a multiple of this, and contexts are stated as one: so the operations of a
 * decoding step are the same as the step's before for a long time, and a device can repeat them.
 */
export const STABLE_STEPS = 256;

/** Settings and draw of an output. */
const SAMPLING_WORDS = 8;

/** Tokens of which one word of a mask says whether they may be drawn. */
export const MASK_TOKENS = 32;

/** Int32 words that the tables of all micro-batches of a pass need at most. */
export function controlWords(
  plan: Pick<
    Counts,
    | 'passTokens'
    | 'microBatchTokens'
    | 'sequences'
    | 'historyTokens'
    | 'addedTokens'
    | 'maskWords'
    | 'horizons'
  >,
  tokenRows: number,
  pagesPerSequence: number,
): number {
  const microBatches = Math.ceil(plan.passTokens / plan.microBatchTokens) + plan.sequences;
  const slices = plan.sequences + microBatches;
  const pageTables = 1 + plan.horizons.length;
  const perToken = 1 + pageTables + tokenRows + 2; // position, slots, rows; output and target
  // Which mask an output has is one word more, and where what is added to its logits lies are two.
  const perOutput = SAMPLING_WORDS + Number(plan.maskWords > 0) + 2 * Number(plan.addedTokens > 0);
  const sampling = plan.sequences * perOutput + plan.historyTokens + 2 * plan.addedTokens;
  const perSlice = 4 + 1 + pageTables * pagesPerSequence; // sequence, state, pages
  const tables = slices * perSlice + microBatches * pageTables * STABLE_STEPS;
  return plan.passTokens * perToken + tables + sampling;
}

/** Whether there is a limit, and a pass is one micro-batch of up to so many tokens. */
export function isAloneWithin(
  limit: { readonly mostTokens: number } | undefined,
  microBatchTokens: readonly number[],
): boolean {
  const [tokens, more] = microBatchTokens;
  return limit !== undefined && tokens !== undefined && more === undefined && tokens <= limit.mostTokens;
}
