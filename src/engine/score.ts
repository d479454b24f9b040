// Mean negative log-likelihood of a token sequence, in windows of the model's context.

import { type Executor, OperatingError, PageAllocator, pagesFor, present } from '../../offload/index.js';
import { tokensProblem } from '../text/token-ids.js';
import { Suspect } from './not-finite.js';
import { cutPasses, cutSequence, packPass, type Work } from './packing.js';

export interface Score {
  /** Mean over predicted tokens, in nats. */
  readonly nll: number;
  readonly perplexity: number;
  /** Predicted tokens: all but the first. */
  readonly tokens: number;
}

export interface ScoreOptions {
  /** Tokens of a window. A window begins with the last token of the one before, so each token is predicted once. */
  readonly windowTokens: number;
  readonly signal?: AbortSignal;
  /** After each pass, with the number of micro-batches that read the weights in it. */
  readonly onProgress?: (doneTokens: number, totalTokens: number, microBatches: number) => void;
}

/** Windows that a score of that many tokens needs. */
export function windowCount(tokenCount: number, windowTokens: number): number {
  return Math.ceil((tokenCount - 1) / (windowTokens - 1));
}

/** @param ids at least two tokens */
export async function score(executor: Executor, ids: Int32Array, options: ScoreOptions): Promise<Score> {
  const { windowTokens, signal, onProgress } = options;
  const problem = tokensProblem(ids, executor.model.vocabSize, 'the text');
  if (problem) throw problem;
  if (ids.length < 2) {
    throw new OperatingError('BAD_INPUT', `scoring needs at least 2 tokens, and the text has ${ids.length}`);
  }
  let passes = 0;
  // Walked twice, because a long text has more of them than memory should hold.
  for (const _ of windowPasses(executor, ids, windowTokens)) passes++;
  executor.begin(passes);
  try {
    let total = 0;
    let predicted = 0;
    for (const pass of windowPasses(executor, ids, windowTokens)) {
      signal?.throwIfAborted();
      const { microBatches } = packPass(pass, executor.plan);
      const [result] = await executor.run({ perDevice: [microBatches] });
      const likelihoods = present(result, 'result').nll;
      for (const nll of likelihoods) total += nll;
      if (!Number.isFinite(total)) throw await notFinite(executor, pass, likelihoods);
      predicted += likelihoods.length;
      onProgress?.(predicted, ids.length - 1, microBatches.length);
    }
    const nll = total / predicted;
    return { nll, perplexity: Math.exp(nll), tokens: predicted };
  } finally {
    await executor.end();
  }
}

/** Runs the pass again, watched: what it saw of earlier ones is still in the cache, and was finite. */
async function notFinite(
  executor: Executor,
  pass: readonly Work<number>[],
  likelihoods: Float64Array,
): Promise<OperatingError> {
  await executor.end();
  executor.begin(1);
  const { microBatches } = packPass(pass, executor.plan, undefined, () => true);
  const [result] = await executor.run({ perDevice: [microBatches] });
  const { nll, places } = present(result, 'result');
  const failed = likelihoods.findIndex((likelihood) => !Number.isFinite(likelihood));
  const suspect = new Suspect();
  const next = { token: 0, output: 0 };
  let position = -1;
  for (const { sequence: windowStart, slice, outputs } of pass) {
    const isInside = failed >= next.output && failed < next.output + outputs.length;
    if (isInside) {
      position = windowStart + slice.startPosition + present(outputs[failed - next.output], 'output') + 1;
      const { length } = slice.tokens;
      suspect.note(
        present(places, 'places'),
        next,
        length,
        outputs.length,
        windowStart + slice.startPosition,
      );
    }
    next.token += slice.tokens.length;
    next.output += outputs.length;
  }
  const isRepeated = !nll.every(Number.isFinite);
  return suspect.error(`the likelihood of token ${position} cannot be told`, isRepeated, executor);
}

/** Windows in groups that the cache holds at once; each group as passes. */
function* windowPasses(
  executor: Executor,
  ids: Int32Array,
  windowTokens: number,
): Generator<Work<number>[], void> {
  const { plan } = executor;
  let work: Work<number>[] = [];
  let pages = new PageAllocator(plan.kvPages);
  let windows = 0;
  for (let start = 0; start < ids.length - 1; start += windowTokens - 1) {
    // The window's last token is only predicted, so it is not fed.
    const fed = ids.subarray(start, Math.min(start + windowTokens, ids.length) - 1);
    if (windows === plan.sequences || !pages.canAllocate(pagesFor(fed.length, plan.pageTokens))) {
      yield* cutPasses(work, plan);
      [work, pages, windows] = [[], new PageAllocator(plan.kvPages), 0];
    }
    const next = (position: number) => present(ids[start + position + 1], 'target');
    const own = pages.allocate(pagesFor(fed.length, plan.pageTokens));
    work.push(...cutSequence(start, fed, 0, own, plan, () => true, next, fed.length + 1));
    windows++;
  }
  yield* cutPasses(work, plan);
}
