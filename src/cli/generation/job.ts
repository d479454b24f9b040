// What `generate` is to do: prompts from options, files or pipes, how long each is, and what all of them need at most.

import { type OperatingError, present, type Workload } from '../../../offload/index.js';
import type { TextWishes } from '../../engine/download-checks.js';
import type { SamplingSettings } from '../../engine/sampler.js';
import { configuredIds, openTokenizer } from '../../engine/vocabulary.js';
import { GrowingNumbers } from '../../files/growing-numbers.js';
import { mayWait, STDIN, shownName, stdinHasInput } from '../../files/input.js';
import type { Places } from '../../files/place-set.js';
import { loadChatTemplate } from '../../text/chat.js';
import { loadTokenizer } from '../../text/tokenizer/tokenizer.js';
import type { CommandContext } from '../context.js';
import type { GenerateOptions } from '../options/generate-options.js';
import { badOption } from '../options/option-reader.js';
import { idleOption } from '../options/sampling-options.js';
import { type Share, WHOLE } from '../options/share.js';
import type { Source } from '../source.js';
import { type CodingOptions, PromptCoder } from './prompt-coder.js';
import { listOf, noPrompts, type PromptList, readPrompts, repeated } from './prompt-list.js';
import { DEFAULT_PROMPTS, type EncodedPrompt, syntheticPrompts, type Vocabulary } from './prompts.js';

type Surroundings = Pick<CommandContext, 'progress' | 'interrupt' | 'log'>;

/** What is known of each prompt once all have been encoded: their tokens are not kept. */
export interface PromptSizes {
  /** Length of each prompt; negative for one that cannot be continued. */
  readonly promptTokens: Int32Array;
  readonly newTokens: Int32Array;
  readonly impossible: number;
  /** Why the first prompt that cannot be continued cannot. */
  readonly firstProblem: OperatingError | undefined;
  /** Some text looks at its tokens so far when one is chosen. */
  readonly penalised: boolean;
  /** Some text is drawn, */
  readonly draws: boolean;
  /** and depends on the run's seed. */
  readonly drawn: boolean;
}

/** What is to be generated; nothing of it changes from cycle to cycle. */
export interface Job {
  readonly prompts: PromptList;
  /** So many of them come first; the others repeat them to fill the batch. */
  readonly distinct: number;
  /** Texts for each. */
  readonly samples: number;
  /** Which of the prompts are to be continued; of the others nothing is known. */
  readonly share: Share;
  /** Sizes of the distinct prompts. */
  readonly sizes: PromptSizes;
  readonly coder: PromptCoder;
  readonly vocabulary: Vocabulary;
  readonly endTokens: ReadonlySet<number>;
  /** The prompts are the user's own, not the built-in ones. */
  readonly given: boolean;
}

/** Texts are known by their place among all: prompt by prompt, and sample by sample within each. */
export function textCount(job: Pick<Job, 'prompts' | 'samples' | 'share'>): number {
  return promptCount(job) * job.samples;
}

/** Prompts of the share. */
export function promptCount({ prompts, share }: Pick<Job, 'prompts' | 'share'>): number {
  return Math.max(0, Math.ceil((prompts.length - share.index) / share.count));
}

/** Their indices among all prompts. */
function* shareOf({ length }: PromptList, { index, count }: Share): Generator<number, void> {
  for (let at = index; at < length; at += count) yield at;
}

/** The text belongs to the share. */
export function isOwn({ samples, share }: Pick<Job, 'samples' | 'share'>, place: number): boolean {
  return Math.floor(place / samples) % share.count === share.index;
}

/** The model can continue the prompt of this place. */
function isPossible({ sizes, distinct, samples }: Job, place: number): boolean {
  return present(sizes.promptTokens[Math.floor(place / samples) % distinct], 'length') >= 0;
}

/** Indices of the prompts that the model cannot continue. */
export function* impossiblePrompts(job: Job): Generator<number, void> {
  for (const index of shareOf(job.prompts, job.share)) {
    if (!isPossible(job, index * job.samples)) yield index;
  }
}

/** Places of the texts that are to be made: neither there already, nor impossible. */
export function openPlaces(job: Job, finished: Places): Int32Array {
  const open = new GrowingNumbers((length) => new Int32Array(length));
  for (const index of shareOf(job.prompts, job.share)) {
    for (const sample of rangeOf(job.samples)) {
      const place = index * job.samples + sample;
      if (!finished.has(place) && isPossible(job, place)) open.push(place);
    }
  }
  return open.values();
}

/** Read before the model is opened, because mistakes in them are common; empty where none are given. */
export async function givenPrompts(
  options: Pick<
    GenerateOptions,
    'prompts' | 'promptsFile' | 'promptsFormat' | 'temperatureGiven' | 'generationConfig'
  >,
  { progress, interrupt, log }: Surroundings,
): Promise<PromptList> {
  const { prompts, promptsFile, promptsFormat: format, temperatureGiven, generationConfig } = options;
  // The model, which is not open yet, may draw.
  const draws = temperatureGiven || generationConfig;
  if (prompts.length > 0) return listOf(prompts.map((text) => ({ text })));
  const piped = promptsFile === undefined && stdinHasInput();
  const path = piped ? STDIN : promptsFile;
  if (path === undefined) return listOf([]);
  // Whoever has not meant it learns what is being waited for.
  if (mayWait(path)) log.info(`reading prompts from ${shownName(path)}, to its end`);
  let count = 0;
  const onProgress = (now: number) => {
    count = now;
  };
  const input = { path, option: '--prompts_file', signal: interrupt.signal };
  const list = await progress.during(
    () => `reading prompts from ${shownName(path)}: ${count.toLocaleString('en')} so far`,
    readPrompts(input, { format, draws, onProgress }),
  );
  if (list.length === 0 && !piped) throw noPrompts(path);
  return list;
}

/** Whether text has to be made of prompts, or prompts of text. */
export function textWishes(
  { has }: PromptList,
  { chat, stopStrings }: GenerateOptions,
): Required<TextWishes> {
  const chatTemplate = has.messages || chat !== undefined;
  return { tokenizer: has.text || chatTemplate || has.stopStrings || stopStrings.length > 0, chatTemplate };
}

/** Encodes all prompts once, to know how long they are. Throws BAD_TOKENIZER, and the first problem of --prompt. */
export async function encodeJob(
  source: Source,
  given: PromptList,
  options: GenerateOptions,
  surroundings: Surroundings,
): Promise<Job> {
  const { checkpoint, model } = source.opened;
  const { chat, samples = 1, share = WHOLE } = options;
  const needsTokenizer = textWishes(given, options).tokenizer;
  const { vocabulary, endTokens } = await vocabularyOf(source, needsTokenizer);
  const fallback = vocabulary.tokenizer
    ? DEFAULT_PROMPTS.map((text) => ({ text }))
    : syntheticPrompts(model.vocabSize);
  const own = given.length > 0;
  const prompts = own ? given : listOf(fallback);
  const template = chat || prompts.has.messages ? await loadChatTemplate(checkpoint.folder) : undefined;
  const coder = coderOf({ vocabulary, template }, options, model.maxContextTokens, surroundings);
  const sizes = await measure(prompts, coder, options, surroundings);
  if (options.idle !== undefined && !sizes.draws) throw idleOption(options.idle);
  // Among many, one that cannot be continued stops no other.
  if (sizes.firstProblem && options.prompts.length > 0) throw sizes.firstProblem;
  return {
    prompts,
    distinct: prompts.length,
    samples,
    share,
    sizes,
    coder,
    vocabulary,
    endTokens,
    given: own,
  };
}

export function coderOf(
  texts: Pick<CodingOptions, 'vocabulary' | 'template'>,
  { chat, maxNewTokens, maxContext }: Pick<GenerateOptions, 'chat' | 'maxNewTokens' | 'maxContext'>,
  maxContextTokens: number | undefined,
  { interrupt }: Pick<CommandContext, 'interrupt'>,
): PromptCoder {
  return new PromptCoder({
    ...texts,
    chat,
    maxNewTokens,
    maxContext: contextLimit(maxContext, maxContextTokens),
    contextName: maxContext === undefined ? undefined : '--max_context',
    signal: interrupt.signal,
  });
}

/** The tokenizer beside a model, where text has to be made of prompts, or prompts of text; and where a text ends. */
export async function vocabularyOf(
  { opened }: Source,
  needsTokenizer: boolean,
): Promise<Pick<Job, 'vocabulary' | 'endTokens'>> {
  // Loading it where it is absent says what is missing.
  const tokenizer = await (needsTokenizer ? loadTokenizer : openTokenizer)(opened.checkpoint.folder);
  const startToken = tokenizer?.bosTokenId ?? configuredIds(opened, 'bos')[0];
  return {
    vocabulary: { size: opened.model.vocabSize, startToken, tokenizer },
    endTokens: new Set(tokenizer?.eosTokenIds ?? configuredIds(opened, 'eos')),
  };
}

async function measure(
  prompts: PromptList,
  coder: PromptCoder,
  options: GenerateOptions,
  { progress }: Surroundings,
): Promise<PromptSizes> {
  const [promptTokens, newTokens] = [new Int32Array(prompts.length), new Int32Array(prompts.length)];
  const { share = WHOLE } = options;
  let [done, impossible, penalised, draws, drawn] = [0, 0, false, false, false];
  let firstProblem: OperatingError | undefined;
  const enter = (prompt: EncodedPrompt) => {
    const { index, tokens, own, problem } = prompt;
    promptTokens[index] = problem ? -1 : tokens.length;
    newTokens[index] = own?.maxNewTokens ?? options.maxNewTokens;
    firstProblem ??= problem;
    impossible += problem ? 1 : 0;
    const { temperature, repetitionPenalty } = samplingOf(prompt, options);
    penalised ||= repetitionPenalty !== 1;
    draws ||= temperature !== 0;
    drawn ||= temperature !== 0 && own?.sampling?.seed === undefined;
    done++;
  };
  const work = async () => {
    for await (const batch of coder.encode(prompts, shareOf(prompts, share))) batch.forEach(enter);
  };
  const all = promptCount({ prompts, share }).toLocaleString('en');
  await progress.during(() => `tokenising prompts: ${done.toLocaleString('en')} of ${all}`, work());
  return { promptTokens, newTokens, impossible, firstProblem, penalised, draws, drawn };
}

export function samplingOf({ own }: EncodedPrompt, { sampling }: GenerateOptions): SamplingSettings {
  return { ...sampling, ...own?.sampling };
}

export function* rangeOf(length: number): Generator<number, void> {
  for (let index = 0; index < length; index++) yield index;
}

/** As many of them as the batch wants. */
export function fillJob(job: Job, options: GenerateOptions): Job {
  // The scripts that this program replaces always fill the batch; with prompts of one's own, only to measure.
  const full = options.batchSize * options.batchCount;
  const fill = !job.given || (options.benchmark && job.prompts.length < full);
  return fill
    ? { ...job, prompts: repeated(job.prompts, full), distinct: Math.min(full, job.distinct) }
    : job;
}

function contextLimit(wanted: number | undefined, possible: number | undefined): number | undefined {
  if (wanted !== undefined && possible !== undefined && wanted > possible) {
    throw badOption(`--max_context is ${wanted}, but the model has a context of ${possible}: lower it`);
  }
  return wanted ?? possible;
}

/** @param places of the texts that are to be made; at least one */
export function workloadOf(job: Job, places: Int32Array, options: GenerateOptions): Workload {
  const { batchCount } = options;
  const { sizes, distinct, samples } = job;
  const batchSize = Math.min(options.batchSize, Math.ceil(places.length / batchCount));
  let [context, longestNew, promptTokens] = [0, 0, 0];
  for (let first = 0; first < places.length; first += batchSize) {
    let together = 0;
    for (const place of places.subarray(first, first + batchSize)) {
      const index = Math.floor(place / samples) % distinct;
      const [prompt, more] = [
        present(sizes.promptTokens[index], 'length'),
        present(sizes.newTokens[index], 'length'),
      ];
      together += prompt;
      context = Math.max(context, prompt + more);
      longestNew = Math.max(longestNew, more);
    }
    promptTokens = Math.max(promptTokens, together);
  }
  return {
    sequences: batchSize,
    contextTokens: Math.max(context, options.maxContext ?? 0),
    promptTokens,
    newTokens: longestNew,
    output: 'tokens',
    history: sizes.penalised,
    ...inputOf(job.prompts.heldBytes + (2 * distinct + places.length) * Int32Array.BYTES_PER_ELEMENT),
  };
}

/** A few prompts are not worth a line of the plan. */
const LEAST_INPUT_BYTES = 1 << 20;

function inputOf(bytes: number): { inputBytes?: number } {
  return bytes < LEAST_INPUT_BYTES ? {} : { inputBytes: bytes };
}

/** The longest prompt that can be continued. */
export function longestPrompt({ sizes }: Job): number {
  return sizes.promptTokens.reduce((longest, tokens) => Math.max(longest, tokens), 0);
}
