// Why a request cannot be begun: its numbers become indices and lengths, so they are looked at before they do.

import { type Executor, OperatingError } from '../../offload/index.js';
import { tokensProblem } from '../text/token-ids.js';
import type { GenerationOptions, GenerationRequest } from './generate.js';
import { samplingProblem } from './sampler.js';

export function requestProblem(
  { index, promptTokens, sampling, ...own }: GenerationRequest,
  options: Pick<GenerationOptions, 'maxNewTokens'>,
  { model, plan }: Pick<Executor, 'model' | 'plan'>,
): OperatingError | undefined {
  const what = `prompt ${index}`;
  const { maxNewTokens = options.maxNewTokens } = own;
  const problem =
    tokensProblem(promptTokens, model.vocabSize, what) ?? (sampling && samplingProblem(sampling));
  if (problem) return problem;
  if (promptTokens.length === 0) {
    return new OperatingError('EMPTY_PROMPT', `${what} has no tokens: give at least one`);
  }
  if (!Number.isSafeInteger(maxNewTokens) || maxNewTokens < 1) {
    const sentence = `${what} is to get ${maxNewTokens} new tokens: give a whole number from 1 on`;
    return new OperatingError('BAD_OPTION', sentence);
  }
  const wanted = promptTokens.length + maxNewTokens;
  const possible = Math.min(model.maxContextTokens ?? wanted, plan.kvPages * plan.pageTokens);
  if (wanted <= possible) return undefined;
  return new OperatingError(
    'PROMPT_TOO_LONG',
    `${what} has ${promptTokens.length} tokens and is to get ${maxNewTokens} more, but there is room for ${possible}`,
  );
}
