// Going on with results: what a run's texts depend on, and which of them its --output already has.

import { statSync } from 'node:fs';
import { formatBytes, KV_TYPE_NAMES } from '../../../offload/index.js';
import { type JsonObject, show } from '../../files/json-file.js';
import { checkNobodyWrites } from '../../files/json-lines-file.js';
import { PlaceSet } from '../../files/place-set.js';
import { areIds } from '../../text/token-ids.js';
import { isOwn, type Job, rangeOf } from '../generation/job.js';
import type { PromptList } from '../generation/prompt-list.js';
import type { Prompt, Vocabulary } from '../generation/prompts.js';
import type { GenerateOptions } from '../options/generate-options.js';
import { badOption } from '../options/option-reader.js';
import { shareName, WHOLE } from '../options/share.js';
import type { SharedOptions } from '../options/shared-settings.js';
import type { Source } from '../source.js';
import { checkSettings, fingerprint, type RunSettings, readSettings, refusal, resultsFile } from './file.js';
import { type Identity, identitySettings, requireWeights } from './identity.js';
import { type FinishedTexts, readFinished, recordsOf } from './lines.js';

export const NOTHING_FINISHED: FinishedTexts = {
  places: new PlaceSet(),
  fileBytes: 0,
  kept: [],
  damaged: [],
  tornBytes: 0,
};

/**
 * Results of hours must not end by a word that was left out, nor those that another run is writing be taken for what it
 * has left. Throws BAD_OPTION or WRITE_FAILED.
 */
export function checkNothingLost({
  output,
  resume,
  overwrite,
}: Pick<GenerateOptions, 'output' | 'resume' | 'overwrite'>): void {
  const results = output === undefined ? undefined : resultsFile(output);
  const sizeBytes = results === undefined ? 0 : (statSync(results, { throwIfNoEntry: false })?.size ?? 0);
  if (results === undefined || sizeBytes === 0) return;
  checkNobodyWrites(results, '--output');
  if (resume || overwrite) return;
  throw badOption(
    `--output: ${output} has ${formatBytes(sizeBytes)} of results: add --resume to go on with them, --overwrite to ` +
      'begin anew, or give another path',
  );
}

/** A seed that was drawn is drawn once: a run that goes on takes that of the one before. Throws like `readSettings`. */
export function withSeedOfResults(options: GenerateOptions): GenerateOptions {
  const { resume, output, sampling, seedGiven } = options;
  if (!resume || output === undefined || seedGiven) return options;
  const seed = readSettings(output)?.seed;
  return typeof seed === 'number' ? { ...options, sampling: { ...sampling, seed } } : options;
}

/** What has to be known of a job to say what its texts depend on. */
export type SettledJob = Pick<Job, 'vocabulary' | 'endTokens' | 'samples'> & {
  readonly promptsDigest: string;
};

/**
 * Everything that decides what the texts are; where weights rest and what runs together does not.
 * @param identity absent where nothing goes on with the results
 */
export function settingsOf(
  source: Source,
  job: SettledJob,
  options: GenerateOptions,
  identity?: Identity,
): RunSettings {
  const { checkpoint, model } = source.opened;
  const { sampling } = options;
  return {
    model: model.architecture,
    configuration: digest([checkpoint.config, checkpoint.totalBytes]),
    ...(identity ? identitySettings(identity) : {}),
    start_token: job.vocabulary.startToken ?? null,
    stop_tokens: (options.ignoreEos ? [] : [...job.endTokens]).sort((a, b) => a - b),
    prompts: job.promptsDigest,
    ...(options.share ? { shard: shareName(options.share) } : {}),
    ...computeSettings(options),
    chat: options.chat !== undefined,
    system: options.chat?.system ?? null,
    max_new_tokens: options.maxNewTokens,
    ignore_eos: options.ignoreEos,
    stop: options.stopStrings,
    num_samples: job.samples,
    temperature: sampling.temperature,
    top_k: sampling.topK,
    top_p: sampling.topP,
    min_p: sampling.minP,
    repetition_penalty: sampling.repetitionPenalty,
    // Also where nothing was drawn yet: lines that come after these may draw.
    seed: sampling.seed,
  };
}

/** How texts are computed, as far as that changes them. */
export function computeSettings(options: SharedOptions): RunSettings {
  const { kvType } = options.plan;
  // None is exact.
  return { compute_dtype: computeType(options), kv_dtype: kvType ? KV_TYPE_NAMES[kvType] : null };
}

function computeType({ device, plan, cpu }: SharedOptions): string {
  if (device === 'cuda') return plan.activationType ? 'float32' : 'auto';
  return cpu.computeType ?? 'float32';
}

/** With whatever decides its text, but without its chat, which may have the date in it. */
function contentOf(prompt: Prompt): unknown {
  const content = 'text' in prompt ? prompt.text : 'messages' in prompt ? prompt.messages : prompt.tokenIds;
  const { id: _, ...decisive } = prompt.own ?? {};
  return Object.keys(decisive).length > 0 ? [content, decisive] : content;
}

function digest(values: Iterable<unknown>): string {
  return fingerprint(values).slice(0, 16);
}

/** How many, and what: so that the same prompts are known again with others after them. */
export function promptsDigest(prompts: PromptList, count = prompts.length): string {
  return `${count} ${digest(contentsOf(prompts, count))}`;
}

function* contentsOf(prompts: PromptList, count: number): Generator<unknown, void> {
  for (const index of rangeOf(count)) yield contentOf(prompts.at(index));
}

/** What texts there are to be. */
type ListedTexts = Pick<Job, 'prompts' | 'samples' | 'vocabulary'> & Partial<Pick<Job, 'share'>>;

/** Throws BAD_INPUT when the results belong to another run; prompts may have come after those of the results. */
export function finishedTexts(output: string, settings: RunSettings, job: ListedTexts): FinishedTexts {
  const found = readSettings(output);
  const results = resultsFile(output);
  if (!found || results === undefined) return NOTHING_FINISHED;
  requireWeights(output, found);
  // The weights' records have times in them: `checkWeights` compares them.
  checkSettings(output, found, settings, ['prompts', 'weights']);
  if (!beginsWith(job.prompts, found.prompts)) throw otherPrompts(results, found.prompts, job);
  return readFinished(results, (record) => placeOf(record, job));
}

export function countIn(digested: unknown): number {
  return Number.parseInt(String(digested), 10);
}

function beginsWith(prompts: PromptList, digested: unknown): boolean {
  const count = countIn(digested);
  return count <= prompts.length && promptsDigest(prompts, count) === digested;
}

/** Says which prompt is another one, as far as the results tell. */
function otherPrompts(results: string, digested: unknown, { prompts, vocabulary }: ListedTexts) {
  const [theirs, ours] = [countIn(digested), prompts.length];
  let first: { readonly index: number; readonly then: unknown; readonly now: unknown } | undefined;
  for (const { index, prompt, messages } of recordsOf(results)) {
    if (!isCount(index) || index >= (first?.index ?? ours)) continue;
    const given = prompts.at(index);
    const now = 'messages' in given ? given.messages : recordedPrompt(given, vocabulary);
    const then = messages ?? prompt;
    if (JSON.stringify(then) !== JSON.stringify(now)) first = { index, then, now };
  }
  const where = first
    ? `prompt ${first.index} was ${show(first.then)} and is ${show(first.now)}`
    : theirs > ours
      ? `${theirs} there, ${ours} now`
      : `one of the first ${theirs}, of which there is no text to show`;
  return refusal(
    `the results in ${results} belong to a run with other prompts (${where}): give the same prompts, with new ones ` +
      'only after them, or another --output',
  );
}

export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

function placeOf(record: JsonObject, job: ListedTexts): number | string | undefined {
  const { prompts, samples, share = WHOLE, vocabulary } = job;
  const { index, sample = 0, prompt } = record;
  if (!isCount(index) || !isCount(sample) || sample >= samples) return 'has no index of a text';
  if (index >= prompts.length) return `has index ${index}, and there are ${prompts.length} prompts`;
  if (!isOwn({ samples, share }, index * samples))
    return `has index ${index}, which belongs to another share`;
  if (prompt !== recordedPrompt(prompts.at(index), vocabulary)) {
    return `has another prompt than index ${index} has now`;
  }
  return isWhole(record) ? index * samples + sample : undefined;
}

/** What a result says of its prompt. */
function recordedPrompt(prompt: Prompt, { tokenizer, size }: Vocabulary): string | null {
  if ('text' in prompt) return prompt.text;
  if ('messages' in prompt || !tokenizer) return null;
  const { tokenIds } = prompt;
  return areIds(tokenIds, size) ? tokenizer.decode(tokenIds) : null;
}

/** With all that a line is to have; something has taken parts out of others. */
export function isWhole({ text, token_ids, finish_reason }: JsonObject): boolean {
  return (
    (typeof text === 'string' || text === null) &&
    Array.isArray(token_ids) &&
    token_ids.every(isCount) &&
    typeof finish_reason === 'string'
  );
}
