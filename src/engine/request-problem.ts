// Why a request cannot be computed: its numbers become indices and lengths, so they are looked at before they do.

import { type Executor, OperatingError } from '../../offload/index.js';
import { tokensProblem } from '../text/token-ids.js';
import { addsToLogits } from './added-logits.js';
import type { GenerationRequest, ScoringRequest } from './request.js';
import { samplingProblem } from './sampler.js';
import { isScoring, type Sequence } from './sequence.js';

type Planned = Pick<Executor, 'model' | 'plan'>;

export function requestProblem({ request, wanted }: Sequence, planned: Planned): OperatingError | undefined {
  return isScoring(request)
    ? scoringProblem(request, planned)
    : generationProblem(request, wanted.maxNewTokens, planned);
}

function generationProblem(
  { index, promptTokens, sampling, constraint, logProbs, topLogProbs = 0, promptLogProbs }: GenerationRequest,
  maxNewTokens: number,
  { model, plan }: Planned,
): OperatingError | undefined {
  const what = `prompt ${index}`;
  const problem =
    tokensProblem(promptTokens, model.vocabSize, what) ?? (sampling && samplingProblem(sampling));
  if (problem) return problem;
  if (promptTokens.length === 0) {
    return new OperatingError('EMPTY_PROMPT', `${what} has no tokens: give at least one`);
  }
  if (promptLogProbs && !logProbs) {
    const sentence = `${what} asks how likely its tokens are, and not how likely new ones are: give logProbs as well`;
    return new OperatingError('BAD_OPTION', sentence);
  }
  const fewest = promptLogProbs && promptTokens.length > 1 ? 0 : 1;
  if (!Number.isSafeInteger(maxNewTokens) || maxNewTokens < fewest) {
    const sentence = `${what} is to get ${maxNewTokens} new tokens: give a whole number from 1 on`;
    return new OperatingError('BAD_OPTION', sentence);
  }
  if (plan.nll || plan.readLogits) {
    return new OperatingError(
      'BAD_OPTION',
      `${what} is to be continued, but the engine was opened for scoring`,
    );
  }
  if (sampling && sampling.repetitionPenalty !== 1 && plan.historyTokens === 0) {
    const sentence = `${what} asks for a repetition penalty, but the engine was opened without room for one`;
    return new OperatingError('BAD_OPTION', sentence);
  }
  if (sampling && addsToLogits(sampling) && plan.addedTokens === 0) {
    const sentence = `${what} adds to the logits of tokens, but the engine was opened without room for that`;
    return new OperatingError('BAD_OPTION', sentence);
  }
  if (!Number.isSafeInteger(topLogProbs) || topLogProbs < 0 || topLogProbs > plan.topLogProbs) {
    const sentence = `${what} asks for ${topLogProbs} of the likeliest tokens: give a whole number up to ${plan.topLogProbs}`;
    return new OperatingError('BAD_OPTION', sentence);
  }
  if (constraint && plan.maskWords === 0) {
    const sentence = `${what} may be made of some tokens only, but the engine was opened without room to say which`;
    return new OperatingError('BAD_OPTION', sentence);
  }
  const wantedTokens = promptTokens.length + maxNewTokens;
  const possible = mostTokens({ model, plan });
  if (wantedTokens <= possible) return undefined;
  return new OperatingError(
    'PROMPT_TOO_LONG',
    `${what} has ${promptTokens.length} tokens and is to get ${maxNewTokens} more, but there is room for ${possible}`,
  );
}

function scoringProblem(
  { scoredTokens, firstPosition = 0 }: ScoringRequest,
  { model, plan }: Planned,
): OperatingError | undefined {
  const problem = tokensProblem(scoredTokens, model.vocabSize, 'the text');
  if (problem) return problem;
  if (!plan.nll)
    return new OperatingError(
      'BAD_OPTION',
      'a text is to be scored, but the engine was opened for generation',
    );
  const { length } = scoredTokens;
  if (length < 2) {
    return new OperatingError('BAD_INPUT', `scoring needs at least 2 tokens, and the text has ${length}`);
  }
  const possible = mostTokens({ model, plan });
  // The last one is only predicted.
  if (length - 1 <= possible) return undefined;
  return new OperatingError(
    'PROMPT_TOO_LONG',
    `${length} tokens from position ${firstPosition} on are to be scored at once, but there is room for ${possible}`,
  );
}

/** Tokens that one sequence may have. */
function mostTokens({ model, plan }: Planned): number {
  const { maxContextTokens = Number.POSITIVE_INFINITY } = model;
  return Math.min(maxContextTokens, plan.contextTokens, plan.kvPages * plan.pageTokens);
}
