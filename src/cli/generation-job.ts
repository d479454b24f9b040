// What `generate` is to do: prompts from options or files, as token ids, and what that needs at most.

import { present, type Workload } from '../../offload/index.js';
import { loadChatTemplate } from '../chat.js';
import type { GenerationRequest } from '../generate.js';
import {
  checkEachLength,
  DEFAULT_PROMPTS,
  type EncodedPrompt,
  encodeEachPrompt,
  type Prompt,
  parsePromptsFile,
  repeatForSamples,
  repeatPrompts,
  syntheticPrompts,
  type Vocabulary,
} from '../prompts.js';
import { promptEnd, StoppingStream } from '../stop-strings.js';
import { readTextFile } from '../text-file.js';
import { TextStream } from '../text-stream.js';
import { loadTokenizer } from '../tokenizer.js';
import type { GenerateOptions } from './generate-options.js';
import { badOption } from './option-reader.js';
import { configuredIds, openTokenizer, type Source } from './source.js';

/** What is to be generated; nothing of it changes from cycle to cycle. */
export interface Job {
  readonly prompts: readonly Prompt[];
  /** Each as often as there are to be texts for it. */
  readonly encoded: readonly EncodedPrompt[];
  readonly vocabulary: Vocabulary;
  readonly stopTokens: ReadonlySet<number>;
  /** The prompts are the user's own, not the built-in ones. */
  readonly given: boolean;
}

/** Places of the texts that are to be made: neither there already, nor impossible. */
export function openPlaces({ encoded }: Job, finished: ReadonlySet<number>): number[] {
  return [...encoded.keys()].filter((place) => !finished.has(place) && !encoded[place]?.problem);
}

/** Read before the model is opened, because mistakes in them are common. */
export async function givenPrompts({ prompts, promptsFile }: GenerateOptions): Promise<Prompt[]> {
  if (promptsFile === undefined) return prompts.map((text) => ({ text }));
  return parsePromptsFile(await readTextFile(promptsFile, '--prompts_file'), promptsFile);
}

/** The prompts as token ids, before it is known how many of them run at once. */
export interface EncodedJob {
  readonly prompts: readonly Prompt[];
  /** One for each. */
  readonly encoded: readonly EncodedPrompt[];
  readonly vocabulary: Vocabulary;
  readonly stopTokens: ReadonlySet<number>;
  readonly given: boolean;
}

export async function encodeJob(
  source: Source,
  given: readonly Prompt[],
  options: GenerateOptions,
): Promise<EncodedJob> {
  const { checkpoint, model } = source.opened;
  const needsTokenizer =
    given.some((prompt) => 'text' in prompt) || options.chat !== undefined || options.stopStrings.length > 0;
  // Loading it where it is absent says what is missing.
  const tokenizer = await (needsTokenizer ? loadTokenizer : openTokenizer)(checkpoint.folder);
  const vocabulary = {
    size: model.vocabSize,
    startToken: tokenizer?.bosTokenId ?? configuredIds(source.opened, 'bos')[0],
    tokenizer,
  };
  const fallback = tokenizer ? DEFAULT_PROMPTS.map((text) => ({ text })) : syntheticPrompts(model.vocabSize);
  const own = given.length > 0;
  const wanted = own ? given : fallback;
  const prompts = options.chat ? await asChats(wanted, options.chat, checkpoint.folder) : wanted;
  const encoded = checkEachLength(
    await encodeEachPrompt(prompts, vocabulary),
    options.maxNewTokens,
    contextLimit(options.maxContext, model.maxContextTokens),
    options.maxContext === undefined ? undefined : '--max_context',
  );
  // In a file of many, one that cannot be continued stops no other.
  const failure = options.promptsFile === undefined && encoded.find(({ problem }) => problem);
  if (failure) throw failure.problem;
  const ends = tokenizer?.eosTokenIds ?? configuredIds(source.opened, 'eos');
  const stopTokens = new Set(options.ignoreEos ? [] : ends);
  return { prompts, encoded, vocabulary, stopTokens, given: own };
}

/** As many of them as the batch wants. */
export function fillJob(job: EncodedJob, options: GenerateOptions): Job {
  // The scripts that this program replaces always fill the batch; with prompts of one's own, only to measure.
  const full = options.batchSize * options.deviceCount;
  const fill = !job.given || (options.benchmark && job.prompts.length < full);
  const prompts = fill ? repeatPrompts(job.prompts, full) : job.prompts;
  const encoded = prompts.map((_, index) => ({
    ...present(job.encoded[index % job.encoded.length], 'encoded prompt'),
    index,
  }));
  return { ...job, prompts, encoded: repeatForSamples(encoded, options.samples) };
}

function contextLimit(wanted: number | undefined, possible: number | undefined): number | undefined {
  if (wanted !== undefined && possible !== undefined && wanted > possible) {
    throw badOption(`--max_context is ${wanted}, but the model has a context of ${possible}: lower it`);
  }
  return wanted ?? possible;
}

/** Each prompt as a user's message in the checkpoint's chat template. */
async function asChats(
  prompts: readonly Prompt[],
  { system }: { readonly system: string | undefined },
  folder: string,
): Promise<Prompt[]> {
  const template = await loadChatTemplate(folder);
  const before = system === undefined ? [] : [{ role: 'system', content: system } as const];
  return prompts.map((prompt) => {
    if (!('text' in prompt)) throw badOption('--chat is for prompts of text, and one is a list of token ids');
    const chat = template.render([...before, { role: 'user', content: prompt.text }]);
    return { text: prompt.text, chat };
  });
}

/** @param encoded those that are to be continued; at least one */
export function workloadOf(encoded: readonly EncodedPrompt[], options: GenerateOptions): Workload {
  const { maxNewTokens, deviceCount } = options;
  const batchSize = Math.min(options.batchSize, Math.ceil(encoded.length / deviceCount));
  let [longest, promptTokens] = [0, 0];
  for (let first = 0; first < encoded.length; first += batchSize) {
    const lengths = encoded.slice(first, first + batchSize).map(({ tokens }) => tokens.length);
    promptTokens = Math.max(
      promptTokens,
      lengths.reduce((sum, length) => sum + length, 0),
    );
    longest = lengths.reduce((max, length) => Math.max(max, length), longest);
  }
  return {
    sequences: batchSize,
    contextTokens: Math.max(longest + maxNewTokens, options.maxContext ?? 0),
    promptTokens,
    newTokens: maxNewTokens,
    output: 'tokens',
    history: options.sampling !== undefined && options.sampling.repetitionPenalty !== 1,
  };
}

/**
 * Where it is measured, made anew for every cycle, from text, because encoding belongs to what is timed.
 * @param places of the texts that are to be made
 */
export async function makeRequests(
  { prompts, encoded: known, vocabulary }: Job,
  { benchmark, samples, sampling }: GenerateOptions,
  places: readonly number[],
): Promise<GenerationRequest[]> {
  const encoded = benchmark ? repeatForSamples(await encodeEachPrompt(prompts, vocabulary), samples) : known;
  return places.map((place) => {
    const { index, sample = 0, tokens } = present(encoded[place], 'prompt');
    return { index, sample, promptTokens: tokens, ...(sampling ? { sampling } : {}) };
  });
}

/** Watches the text of each sequence for the first stop string. */
export function stopsAfter({ vocabulary }: Job, stopStrings: readonly string[]) {
  const tokenizer = present(vocabulary.tokenizer, 'tokenizer');
  return ({ promptTokens }: GenerationRequest) => {
    const before = promptEnd(tokenizer, promptTokens, stopStrings);
    const stream = new StoppingStream(new TextStream(tokenizer, [...promptTokens]), stopStrings, before);
    return (token: number) => {
      stream.push(token);
      return stream.stopped;
    };
  };
}
