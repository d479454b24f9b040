// How likely a text of any length is: window by window, beside whatever else the engine is asked for.

import { present } from '../../offload/index.js';
import type { Engine } from '../engine/engine.js';
import { windowCount } from '../engine/score.js';
import { listen } from './signals.js';
import type { Score } from './types.js';

export interface ScoringOptions {
  /** A window begins with the last token of the one before, so that each token is predicted once. */
  readonly windowTokens: number;
  readonly signal: AbortSignal;
}

/** @param ids at least two. Rejects with the problem of the first window that has one, and cancels the others. */
export async function scoreText(
  engine: Pick<Engine, 'submit'>,
  ids: Int32Array,
  { windowTokens, signal }: ScoringOptions,
): Promise<Score> {
  const windows = Array.from({ length: windowCount(ids.length, windowTokens) }, (_, index) => {
    const firstPosition = index * (windowTokens - 1);
    const scoredTokens = ids.subarray(firstPosition, firstPosition + windowTokens);
    return engine.submit({ index, scoredTokens, firstPosition });
  });
  const cancel = () => {
    for (const window of windows) window.cancel();
  };
  const forget = listen(signal, cancel);
  const logProbs = [Number.NaN];
  try {
    for (const window of windows) {
      const { logProbs: likelihoods, problem } = await window.result;
      signal.throwIfAborted();
      if (problem) throw problem;
      // A window may have more tokens than a call takes arguments.
      for (const likelihood of present(likelihoods, 'likelihoods')) logProbs.push(likelihood);
    }
  } catch (error) {
    cancel();
    throw error;
  } finally {
    forget();
  }
  const nll = -logProbs.slice(1).reduce((sum, logProb) => sum + logProb, 0) / (ids.length - 1);
  return { nll, perplexity: Math.exp(nll), tokens: Array.from(ids), logProbs };
}
