// Prompts as they are given (text, messages, token ids, fixed sentences), and how they become token ids.

import { counted, OperatingError, present } from '../../../offload/index.js';
import type { SamplingSettings } from '../../engine/sampler.js';
import type { Message } from '../../text/chat.js';
import { checkIds } from '../../text/token-ids.js';
import { encodeLongText, LONG_TEXT_CHARACTERS } from '../../text/tokenizer/long-text.js';
import type { Tokenizer } from '../../text/tokenizer/tokenizer.js';

/** What a prompt asks for itself; the rest is as for all. */
export interface OwnOptions {
  /** The user's name for it, which its result carries. */
  readonly id?: string | number;
  readonly maxNewTokens?: number;
  readonly sampling?: Partial<SamplingSettings>;
  readonly stopStrings?: readonly string[];
  readonly ignoreEos?: boolean;
}

/** As given: text, a conversation, or token ids. */
export type Prompt = (
  | { readonly text: string }
  | { readonly messages: readonly Message[] }
  /** What a list from outside holds, which need not be ids. */
  | { readonly tokenIds: readonly unknown[] }
) & { readonly own?: OwnOptions };

/** What the model continues. */
export interface EncodedPrompt {
  /** Position in the input; results carry it. */
  readonly index: number;
  /** Which of several texts for it. */
  readonly sample?: number;
  /** Undefined for messages, and where only ids are known and nothing can decode them. */
  readonly text: string | undefined;
  readonly messages?: readonly Message[];
  readonly tokens: Int32Array;
  readonly own?: OwnOptions;
  /** Why the model cannot continue it. */
  readonly problem?: OperatingError;
}

/** What a model and its tokenizer allow; the tokenizer is absent in checkpoints of random weights. */
export interface Vocabulary {
  readonly size: number;
  readonly startToken: number | undefined;
  readonly tokenizer: Tokenizer | undefined;
}

/** For runs without input; of different length, so that a batch is never uniform. */
export const DEFAULT_PROMPTS: readonly string[] = [
  'The lighthouse keeper opened the door and',
  'A good recipe for bread begins with',
  'In the year 2150, the first city on Mars',
  'The three most important rules of chess are',
  'Dear colleagues, I am writing to tell you that',
  'Rivers flow to the sea because',
  'When the train finally arrived, everyone',
  'My grandmother used to say',
];

const SYNTHETIC_TOKENS = 16;

/** Prompts of token ids for checkpoints without a tokenizer: the same on every machine, spread over the vocabulary. */
export function syntheticPrompts(vocabSize: number): Prompt[] {
  return DEFAULT_PROMPTS.map((_, prompt) => ({
    // Multiplying by the golden ratio's bits scatters consecutive numbers evenly.
    tokenIds: Array.from(
      { length: SYNTHETIC_TOKENS },
      (_, i) => (Math.imul(prompt * SYNTHETIC_TOKENS + i + 1, 0x9e3779b1) >>> 0) % vocabSize,
    ),
  }));
}

/** A list, whose ids are checked where the vocabulary is known. Throws BAD_INPUT for anything else. */
export function parseIdList(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new OperatingError('BAD_INPUT', `${what} is no list of token ids`);
  return value;
}

/** A prompt and its position in the input. */
export type PlacedPrompt = readonly [index: number, prompt: Prompt];

export interface EncodingOptions {
  /**
   * What a prompt is to the tokenizer, if not itself: its chat, with all special tokens written out. Throws BAD_INPUT for
   * a conversation that the template refuses.
   */
  readonly chatOf?: (prompt: Prompt) => string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Prompts as token ids; one that the model cannot take only carries its problem. Throws BAD_TOKENIZER, or the signal's
 * reason.
 */
export async function encodeEachPrompt(
  prompts: readonly PlacedPrompt[],
  vocabulary: Vocabulary,
  { chatOf = () => undefined, signal }: EncodingOptions = {},
): Promise<EncodedPrompt[]> {
  const encoded = await encodeTexts(prompts, vocabulary.tokenizer, chatOf, signal);
  return prompts.map(([index, prompt], position) => {
    const { own } = prompt;
    const about = {
      index,
      text: 'text' in prompt ? prompt.text : undefined,
      ...('messages' in prompt ? { messages: prompt.messages } : {}),
      ...(own === undefined ? {} : { own }),
    };
    const ids = present(encoded[position], 'encoded prompt');
    if (ids instanceof OperatingError) return { ...about, tokens: new Int32Array(0), problem: ids };
    let { text } = about;
    try {
      checkIds(ids, vocabulary.size, `prompt ${index}`);
      if ('tokenIds' in prompt) text = vocabulary.tokenizer?.decode(ids);
      return { ...about, text, tokens: Int32Array.from(withStart(ids, vocabulary.startToken, index)) };
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error;
      return { ...about, text, tokens: Int32Array.from(ids, Number), problem: error };
    }
  });
}

/** Ids, or why there are none, for each. */
async function encodeTexts(
  prompts: readonly PlacedPrompt[],
  tokenizer: Tokenizer | undefined,
  chatOf: (prompt: Prompt) => string | undefined,
  signal: AbortSignal | undefined,
): Promise<(readonly unknown[] | OperatingError)[]> {
  const encoded = new Map<Prompt, readonly unknown[] | OperatingError>();
  const short: { readonly prompt: Prompt; readonly text: string }[] = [];
  const encodeAlone = async (text: string, bare: boolean) => {
    const ids = await encodeLongText(present(tokenizer, 'tokenizer'), [text], { bare, signal });
    return Array.from(ids);
  };
  for (const [, prompt] of prompts) {
    const chat = orProblem(() => chatOf(prompt));
    if (chat instanceof OperatingError) encoded.set(prompt, chat);
    else if (chat !== undefined) encoded.set(prompt, await encodeAlone(chat, true).catch(problemOf));
    else if (!('text' in prompt)) encoded.set(prompt, 'tokenIds' in prompt ? prompt.tokenIds : []);
    else if (prompt.text.length < LONG_TEXT_CHARACTERS) short.push({ prompt, text: prompt.text });
    else encoded.set(prompt, await encodeAlone(prompt.text, false).catch(problemOf));
  }
  const texts = short.map(({ text }) => text);
  const ids = texts.length > 0 ? await encodePlain(texts, present(tokenizer, 'tokenizer')) : [];
  short.forEach(({ prompt }, index) => {
    encoded.set(prompt, present(ids[index], 'encoded prompt'));
  });
  return prompts.map(([, prompt]) => present(encoded.get(prompt), 'encoded prompt'));
}

/** Together, unless the tokenizer refuses some of them. */
async function encodePlain(
  texts: readonly string[],
  tokenizer: Tokenizer,
): Promise<readonly (readonly number[] | OperatingError)[]> {
  try {
    return await tokenizer.encodeBatch(texts);
  } catch (error) {
    problemOf(error);
    return Promise.all(texts.map((text) => tokenizer.encode(text).catch(problemOf)));
  }
}

/** What is wrong with a prompt itself; anything else concerns the run. */
function problemOf(error: unknown): OperatingError {
  if (error instanceof OperatingError && error.code === 'BAD_INPUT') return error;
  throw error;
}

function orProblem<T>(work: () => T): T | OperatingError {
  try {
    return work();
  } catch (error) {
    return problemOf(error);
  }
}

/** Something must be fed for the first token to come out. */
function withStart(ids: readonly number[], startToken: number | undefined, index: number): readonly number[] {
  if (ids.length > 0) return ids;
  if (startToken !== undefined) return [startToken];
  throw new OperatingError(
    'EMPTY_PROMPT',
    `prompt ${index} has no tokens, and the model has no start token to begin with: give some text`,
  );
}

/** Prompts that do not fit carry PROMPT_TOO_LONG with all numbers. */
export function checkEachLength(
  prompts: readonly EncodedPrompt[],
  maxNewTokens: number,
  maxContextTokens: number | undefined,
  limitName = "the model's context",
): EncodedPrompt[] {
  return prompts.map((prompt) => {
    const { index, tokens, own, problem } = prompt;
    const newTokens = own?.maxNewTokens ?? maxNewTokens;
    if (problem || maxContextTokens === undefined) return prompt;
    if (tokens.length + newTokens <= maxContextTokens) return prompt;
    const length = own?.maxNewTokens === undefined ? '--max_new_tokens' : "its 'max_new_tokens'";
    const sentence =
      `prompt ${index} has ${counted(tokens.length, 'token')} and is to get ${newTokens} more, but ${limitName} ` +
      `is ${maxContextTokens}: shorten the prompt or lower ${length}`;
    return { ...prompt, problem: new OperatingError('PROMPT_TOO_LONG', sentence) };
  });
}
