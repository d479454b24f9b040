// Mean negative log-likelihood of a token sequence, in windows of the model's context.

import { type Executor, OperatingError, PageAllocator, pagesFor, present } from '../offload/index.js';
import { cutPasses, cutSequence, packPass, type Work } from './batch.js';

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
      predicted += likelihoods.length;
      if (!Number.isFinite(total)) throw notFinite(predicted);
      onProgress?.(predicted, ids.length - 1, microBatches.length);
    }
    const nll = total / predicted;
    return { nll, perplexity: Math.exp(nll), tokens: predicted };
  } finally {
    await executor.end();
  }
}

function notFinite(predicted: number): OperatingError {
  return new OperatingError(
    'NOT_FINITE',
    `the likelihood of one of the first ${predicted} tokens cannot be told, since its logits are no finite numbers`,
  );
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
