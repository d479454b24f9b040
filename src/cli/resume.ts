// Going on with results: what a run's texts depend on, and which of them its --output already has.

import type { JsonObject } from '../json-file.js';
import type { Prompt } from '../prompts.js';
import {
  checkSettings,
  type FinishedTexts,
  fingerprint,
  type RunSettings,
  readFinished,
  readSettings,
} from '../results-file.js';
import type { GenerateOptions } from './generate-options.js';
import type { Job } from './generation-job.js';
import { type Identity, identitySettings, requireWeights } from './identity.js';
import type { Source } from './source.js';

export const NOTHING_FINISHED: FinishedTexts = { places: new Set(), wholeBytes: 0, tornBytes: 0 };

/** A seed that was drawn is drawn once: a run that goes on takes that of the one before. Throws like `readSettings`. */
export function withSeedOfResults(options: GenerateOptions): GenerateOptions {
  const { resume, output, sampling, seedGiven } = options;
  if (!resume || output === undefined || !sampling || seedGiven) return options;
  const seed = readSettings(output)?.seed;
  return typeof seed === 'number' ? { ...options, sampling: { ...sampling, seed } } : options;
}

/**
 * Everything that decides what the texts are; where weights rest and what runs together does not.
 * @param identity absent where nothing goes on with the results
 */
export function settingsOf(
  source: Source,
  job: Job,
  options: GenerateOptions,
  identity?: Identity,
): RunSettings {
  const { checkpoint, model } = source.opened;
  const { sampling } = options;
  const digest = (values: Iterable<unknown>) => fingerprint(values).slice(0, 16);
  return {
    model: model.architecture,
    configuration: digest([checkpoint.config, checkpoint.totalBytes]),
    ...(identity ? identitySettings(identity) : {}),
    start_token: job.vocabulary.startToken ?? null,
    stop_tokens: [...job.stopTokens].sort((a, b) => a - b),
    prompts: `${job.prompts.length} ${digest(job.prompts.map(contentOf))}`,
    compute_dtype: options.cpu.computeType ?? 'float32',
    chat: options.chat !== undefined,
    system: options.chat?.system ?? null,
    max_new_tokens: options.maxNewTokens,
    ignore_eos: options.ignoreEos,
    stop: options.stopStrings,
    num_samples: options.samples ?? 1,
    temperature: sampling?.temperature ?? 0,
    top_k: sampling?.topK ?? 0,
    top_p: sampling?.topP ?? 1,
    min_p: sampling?.minP ?? 0,
    repetition_penalty: sampling?.repetitionPenalty ?? 1,
    seed: sampling?.seed ?? null,
  };
}

/** Without its chat, which may have the date in it. */
function contentOf(prompt: Prompt): unknown {
  return 'text' in prompt ? prompt.text : prompt.tokenIds;
}

/** Throws BAD_INPUT when the results belong to another run. */
export function finishedTexts(
  output: string,
  settings: RunSettings,
  job: Pick<Job, 'encoded'>,
): FinishedTexts {
  const found = readSettings(output);
  if (!found) return NOTHING_FINISHED;
  requireWeights(output, found);
  // The weights' records have times in them: `checkWeights` compares them.
  const [{ weights: _then, ...there }, { weights: _now, ...here }] = [found, settings];
  checkSettings(output, there, here);
  const samples = Number(settings.num_samples);
  return readFinished(output, (record) => placeOf(record, samples, job));
}

function placeOf(
  { index, sample = 0, prompt }: JsonObject,
  samples: number,
  { encoded }: Pick<Job, 'encoded'>,
) {
  const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0;
  if (!isCount(index) || !isCount(sample) || sample >= samples) return 'has no index of a text';
  const place = index * samples + sample;
  const expected = encoded[place];
  if (!expected) return `has index ${index}, and there are ${encoded.length / samples} prompts`;
  return prompt === (expected.text ?? null) ? place : `has another prompt than index ${index} has now`;
}
