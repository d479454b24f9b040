// Mean negative log-likelihood of a token sequence, in windows of the model's context.

import { type Executor, OperatingError } from '../../offload/index.js';
import { tokensProblem } from '../text/token-ids.js';
import type { GenerationResult } from './request.js';
import { Scheduler } from './scheduler.js';

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
  /** The log-probabilities of a window's tokens, once they are known; windows may end in another order. */
  readonly onWindow?: (firstPosition: number, logProbs: readonly number[]) => void;
  /** After each pass, with the number of micro-batches that read the weights in it. */
  readonly onProgress?: (doneTokens: number, totalTokens: number, microBatches: number) => void;
}

/** Windows that a score of that many tokens needs. */
export function windowCount(tokenCount: number, windowTokens: number): number {
  return Math.ceil((tokenCount - 1) / (windowTokens - 1));
}

/** @param ids at least two tokens */
export async function score(executor: Executor, ids: Int32Array, options: ScoreOptions): Promise<Score> {
  const { windowTokens, signal, onWindow, onProgress } = options;
  const problem = tokensProblem(ids, executor.model.vocabSize, 'the text');
  if (problem) throw problem;
  if (ids.length < 2) {
    throw new OperatingError('BAD_INPUT', `scoring needs at least 2 tokens, and the text has ${ids.length}`);
  }
  const windows = windowCount(ids.length, windowTokens);
  const stop = new AbortController();
  /** By window: sums are made in the order of the text, whatever ends first. */
  const sums = new Float64Array(windows);
  let predicted = 0;
  let firstProblem: OperatingError | undefined;
  let given = 0;
  const next = async () => {
    const index = given++;
    const firstPosition = index * (windowTokens - 1);
    const scoredTokens = ids.subarray(firstPosition, firstPosition + windowTokens);
    const onFinished = ({ logProbs = [], problem }: GenerationResult) => {
      if (problem) {
        firstProblem ??= problem;
        stop.abort(problem);
        return;
      }
      for (const logProb of logProbs) sums[index] = (sums[index] ?? 0) - logProb;
      onWindow?.(firstPosition, logProbs);
    };
    return { request: { index, scoredTokens, firstPosition }, listener: { onFinished } };
  };
  await new Scheduler(executor, {
    queue: { length: windows, next },
    signal: signal ? AbortSignal.any([signal, stop.signal]) : stop.signal,
    onPass: ({ tokens, microBatches }) => {
      predicted += tokens;
      onProgress?.(predicted, ids.length - 1, microBatches);
    },
  }).whenIdle();
  if (firstProblem) throw firstProblem;
  const nll = sums.reduce((sum, one) => sum + one, 0) / (ids.length - 1);
  return { nll, perplexity: Math.exp(nll), tokens: ids.length - 1 };
}
