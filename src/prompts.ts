// Where prompts come from (options, files, fixed sentences, synthetic ids) and how they become token ids.

import { OperatingError, present } from '../offload/index.js';
import { isJsonObject, reason } from './json-file.js';
import { checkIds } from './token-ids.js';
import type { Tokenizer } from './tokenizer.js';

/** As given: text, or token ids. */
export type Prompt =
  | {
      readonly text: string;
      /** The text in its chat, with all special tokens written out. */
      readonly chat?: string;
    }
  /** What a list from outside holds, which need not be ids. */
  | { readonly tokenIds: readonly unknown[] };

/** What the model continues. */
export interface EncodedPrompt {
  /** Position in the input; results carry it. */
  readonly index: number;
  /** Which of several texts for it. */
  readonly sample?: number;
  /** Undefined where only ids are known and nothing can decode them. */
  readonly text: string | undefined;
  readonly tokens: Int32Array;
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

/** `count` prompts, by repeating the given ones in turn. */
export function repeatPrompts(prompts: readonly Prompt[], count: number): Prompt[] {
  return Array.from({ length: count }, (_, index) => present(prompts[index % prompts.length], 'prompt'));
}

/** Each prompt `samples` times, one after the other; as they are where nobody asked for several texts. */
export function repeatForSamples(
  prompts: readonly EncodedPrompt[],
  samples: number | undefined,
): readonly EncodedPrompt[] {
  if (samples === undefined) return prompts;
  return prompts.flatMap((prompt) => Array.from({ length: samples }, (_, sample) => ({ ...prompt, sample })));
}

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

/** Prompts of a file: JSON Lines by its name, otherwise a prompt a line. Blank lines are skipped in both. */
export function parsePromptsFile(content: string, path: string): Prompt[] {
  const jsonLines = /\.(jsonl|ndjson)$/i.test(path);
  const prompts: Prompt[] = [];
  for (const [index, line] of content.split(/\r?\n/).entries()) {
    if (line.trim() === '') continue;
    prompts.push(jsonLines ? parseJsonLine(line, `line ${index + 1} of ${path}`) : { text: line });
  }
  if (prompts.length === 0) {
    throw new OperatingError('BAD_INPUT', `${path} has no prompts: write one a line`);
  }
  return prompts;
}

function parseJsonLine(line: string, where: string): Prompt {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new OperatingError('BAD_INPUT', `${where} is not JSON: ${reason(error)}`, { cause: error });
  }
  if (!isJsonObject(value)) throw new OperatingError('BAD_INPUT', `${where} is JSON, but not an object`);
  // null counts as absent: results of checkpoints without a tokenizer have it, and can be fed again.
  const text = value.prompt ?? undefined;
  const ids = value.prompt_token_ids ?? undefined;
  if ((text === undefined) === (ids === undefined)) {
    const found = text === undefined ? 'neither' : 'both';
    throw new OperatingError(
      'BAD_INPUT',
      `${where} has ${found} of 'prompt' and 'prompt_token_ids': give one`,
    );
  }
  if (text !== undefined) {
    if (typeof text !== 'string') throw new OperatingError('BAD_INPUT', `${where}: 'prompt' is no string`);
    return { text };
  }
  return { tokenIds: parseIdList(ids, `${where}: 'prompt_token_ids'`) };
}

/** A list, whose ids are checked where the vocabulary is known. Throws BAD_INPUT for anything else. */
export function parseIdList(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new OperatingError('BAD_INPUT', `${what} is no list of token ids`);
  return value;
}

/** Prompts as token ids that the model can take. Throws BAD_INPUT, BAD_TOKENIZER or EMPTY_PROMPT. */
export async function encodePrompts(
  prompts: readonly Prompt[],
  vocabulary: Vocabulary,
): Promise<EncodedPrompt[]> {
  const encoded = await encodeEachPrompt(prompts, vocabulary);
  const failure = encoded.find(({ problem }) => problem);
  if (failure?.problem) throw failure.problem;
  return encoded;
}

/** The same, but a prompt that the model cannot take only carries its problem. Throws BAD_TOKENIZER. */
export async function encodeEachPrompt(
  prompts: readonly Prompt[],
  vocabulary: Vocabulary,
): Promise<EncodedPrompt[]> {
  const encoded = await encodeTexts(prompts, vocabulary.tokenizer);
  return prompts.map((prompt, index) => {
    const ids = 'text' in prompt ? present(encoded.get(prompt), 'encoded prompt') : prompt.tokenIds;
    try {
      checkIds(ids, vocabulary.size, `prompt ${index}`);
      const text = 'text' in prompt ? prompt.text : vocabulary.tokenizer?.decode(ids);
      return { index, text, tokens: Int32Array.from(withStart(ids, vocabulary.startToken, index)) };
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error;
      const text = 'text' in prompt ? prompt.text : undefined;
      return { index, text, tokens: Int32Array.from(ids, Number), problem: error };
    }
  });
}

async function encodeTexts(
  prompts: readonly Prompt[],
  tokenizer: Tokenizer | undefined,
): Promise<Map<Prompt, readonly number[]>> {
  const encoded = new Map<Prompt, readonly number[]>();
  const plain: (Prompt & { readonly text: string })[] = [];
  for (const prompt of prompts) {
    if (!('text' in prompt)) continue;
    if (prompt.chat === undefined) plain.push(prompt);
    else encoded.set(prompt, await present(tokenizer, 'tokenizer').encodeBare(prompt.chat));
  }
  const texts = plain.map(({ text }) => text);
  const ids = texts.length > 0 ? await present(tokenizer, 'tokenizer').encodeBatch(texts) : [];
  plain.forEach((prompt, index) => {
    encoded.set(prompt, present(ids[index], 'encoded prompt'));
  });
  return encoded;
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
    const { index, tokens, problem } = prompt;
    if (problem || maxContextTokens === undefined) return prompt;
    if (tokens.length + maxNewTokens <= maxContextTokens) return prompt;
    const sentence =
      `prompt ${index} has ${tokens.length} tokens and is to get ${maxNewTokens} more, but ${limitName} ` +
      `is ${maxContextTokens}: shorten the prompt or lower --max_new_tokens`;
    return { ...prompt, problem: new OperatingError('PROMPT_TOO_LONG', sentence) };
  });
}
