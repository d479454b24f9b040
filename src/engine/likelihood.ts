// How likely the token of an output is, and which others were likeliest in its place, as its request asks.

import { NO_TOKEN, type PassResult } from '../../offload/index.js';
import type { TokenLikelihood } from './request.js';

/** What a pass says of all its outputs. */
export type PassLikelihoods = Pick<PassResult, 'logProbs' | 'top'>;

/** @param wanted so many of the others: its micro-batch may have been asked for more */
export function likelihoodAt(
  output: number,
  { logProbs, top }: PassLikelihoods,
  wanted: number,
): TokenLikelihood {
  const logProb = logProbs[output] ?? Number.NaN;
  const others = wanted > 0 ? top?.[output] : undefined;
  if (!others) return { logProb };
  // A small vocabulary leaves places over.
  const tokens = Array.from(others.tokens.subarray(0, wanted)).filter((token) => token !== NO_TOKEN);
  return { logProb, top: tokens.map((token, at) => ({ token, logProb: others.logProbs[at] ?? Number.NaN })) };
}
