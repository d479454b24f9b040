// `--generation_config`: the model's own settings below those of the command line, with what it cannot have said.

import { join } from 'node:path';
import { readGenerationConfig } from '../../engine/generation-config.js';
import type { OpenedModel } from '../../engine/open-model.js';
import type { CommandContext } from '../context.js';
import type { SamplingOptions } from '../options/sampling-options.js';

interface Decided extends SamplingOptions {
  readonly maxNewTokens: number | undefined;
  /** Absent where no other number takes the place of one that is not given. */
  readonly lengthGiven?: boolean;
}

/** The options as they are with what the model says. Throws BAD_CONFIG. */
export function withModelSampling<T extends Decided>(
  { checkpoint, model }: OpenedModel,
  options: T,
  { log }: Pick<CommandContext, 'log'>,
): T {
  if (!options.generationConfig) return options;
  const path = join(checkpoint.folder, 'generation_config.json');
  if (Object.keys(checkpoint.generationConfig).length === 0) {
    log.info(`${path} says nothing: tokens are chosen as the options say`);
    return options;
  }
  const own = readGenerationConfig(checkpoint.generationConfig, path, model.maxContextTokens);
  for (const line of own.warnings) log.warn(line);
  const { seed } = options.sampling;
  const sampling = { ...own.sampling, seed, ...options.given };
  const { temperature, topK, topP, minP, repetitionPenalty } = sampling;
  const drawing = temperature === 0 ? '' : `, top_k ${topK}, top_p ${topP}, min_p ${minP}`;
  log.info(
    `${path} and the options: temperature ${temperature}${drawing}, repetition_penalty ${repetitionPenalty}`,
  );
  const { maxNewTokens, lengthGiven = maxNewTokens !== undefined } = options;
  return {
    ...options,
    sampling,
    maxNewTokens: lengthGiven ? maxNewTokens : (own.maxNewTokens ?? maxNewTokens),
    stopStrings: options.stopStrings.length > 0 ? options.stopStrings : own.stopStrings,
  };
}
