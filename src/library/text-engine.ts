// The engine that programs hold: texts in and out, on an engine of tokens; knows its texts until they end.

import { OperatingError } from '../../offload/index.js';
import { encodeLongText } from '../text/tokenizer/long-text.js';
import { readGenerateOptions } from './generate-options.js';
import { type GenerationSettings, TextGeneration, type TokenSource } from './generation.js';
import { badOption, Options, shown } from './option-check.js';
import { inOwnWords } from './own-words.js';
import { type Coder, readIds, readPrompt } from './prompt.js';
import { following } from './signals.js';
import { submitText, type TextRoom } from './text-request.js';
import type {
  DetokenizeOptions,
  Engine,
  EngineInfo,
  GenerateOptions,
  Generation,
  Prompt,
  Score,
  ScoreOptions,
  TokenizeOptions,
} from './types.js';

export interface OpenParts {
  readonly info: EngineInfo;
  readonly coder: Coder;
  /** With `task: 'generate'`. */
  readonly room: TextRoom | undefined;
  /** With `task: 'score'`: at least two ids of the vocabulary. */
  readonly score: ((ids: Int32Array, signal: AbortSignal) => Promise<Score>) | undefined;
  /** Once. */
  close(): Promise<void>;
}

const NOTHING_ASKED: GenerationSettings = { logProbs: false, signal: undefined };
/** Beyond it, an Int32Array would hold another number. */
const MOST_IDS = 2 ** 31;

/** What a program calls are functions by themselves, since it may take them out of the engine. */
export class TextEngine implements Engine {
  readonly info: EngineInfo;
  readonly #parts: OpenParts;
  readonly #texts = new Set<TextGeneration>();
  readonly #closing = new AbortController();
  #begun = 0;
  #closed: Promise<void> | undefined;

  constructor(parts: OpenParts) {
    this.info = parts.info;
    this.#parts = parts;
  }

  readonly generate = (prompt: Prompt, options?: GenerateOptions): Generation => {
    const { settings, submit } = this.#begin(prompt, options);
    const text = new TextGeneration(settings, submit);
    this.#texts.add(text);
    const forget = () => this.#texts.delete(text);
    text.result.then(forget, forget);
    return text;
  };

  readonly score = async (
    given: string | { readonly tokens: readonly number[] | Int32Array },
    options?: ScoreOptions,
  ): Promise<Score> => {
    this.#checkOpen('score a text');
    const { score, coder } = this.#parts;
    if (!score) throw badOption("this engine makes texts: open the model with task 'score' to score them");
    const signal = new Options(options, ['signal'], 'the options of score').signal('signal');
    const prompt = readPrompt(given, undefined, this.info.vocabSize);
    if ('messages' in prompt)
      throw badInput('what is scored is a text or { tokens }, and messages are neither');
    return this.#untilClosed(signal, async (own) => {
      const ids = await coder.encode(prompt, own);
      if (ids.length >= 2) return score(ids, own);
      throw badInput(
        `the text has ${ids.length === 1 ? 'one token' : 'no tokens'}: scoring needs at least 2, as the first is only given`,
      );
    });
  };

  readonly tokenize = async (text: string, options?: TokenizeOptions): Promise<number[]> => {
    this.#checkOpen('make tokens of a text');
    const { specialTokens = true } = readSpecial(options, 'tokenize');
    if (typeof text !== 'string') throw badInput(`what is to become tokens is ${shown(text)}: give a text`);
    return this.#untilClosed(undefined, async (signal) => {
      const tokenizer = await this.#parts.coder.tokenizer();
      return Array.from(await encodeLongText(tokenizer, [text], { bare: !specialTokens, signal }));
    });
  };

  readonly detokenize = (tokens: readonly number[] | Int32Array, options?: DetokenizeOptions): string => {
    this.#checkOpen('make a text of tokens');
    const { specialTokens = false } = readSpecial(options, 'detokenize');
    const ids = readIds(tokens, MOST_IDS, 'what is to become a text');
    const { optionalTokenizer } = this.#parts.coder;
    if (optionalTokenizer)
      return optionalTokenizer.decode(Array.from(ids), { skipSpecialTokens: !specialTokens });
    throw new OperatingError(
      'BAD_TOKENIZER',
      `${this.info.folder} has no tokenizer to make a text with: add its files`,
    );
  };

  readonly close = (): Promise<void> => {
    this.#closed ??= this.#close();
    return this.#closed;
  };

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const error = new OperatingError('CLOSED', 'the engine was closed before this was done');
    this.#closing.abort(error);
    for (const text of this.#texts) text.fail(error);
    await this.#parts.close();
  }

  /** Looks at everything at once, since a program may change what it has given; what is wrong is told by the text. */
  #begin(
    prompt: Prompt,
    options: GenerateOptions | undefined,
  ): {
    readonly settings: GenerationSettings;
    readonly submit: (signal: AbortSignal) => Promise<TokenSource>;
  } {
    try {
      this.#checkOpen('make a text');
      const { room, coder } = this.#parts;
      if (!room)
        throw badOption("this engine scores texts: open the model without task 'score' to make them");
      const settings = readGenerateOptions(options, this.info.vocabSize, room.own);
      const checked = readPrompt(prompt, settings.system, this.info.vocabSize);
      const index = this.#begun++;
      return {
        settings,
        submit: async (signal) => {
          const promptTokens = await coder.encode(checked, signal);
          signal.throwIfAborted();
          return submitText(index, promptTokens, settings, room);
        },
      };
    } catch (error) {
      return { settings: NOTHING_ASKED, submit: () => Promise.reject(error) };
    }
  }

  #checkOpen(what: string): void {
    if (this.#closed)
      throw new OperatingError('CLOSED', `the engine is closed: open the model again to ${what}`);
  }

  /** Closing ends it as the program's signal does. */
  async #untilClosed<T>(
    signal: ScoreOptions['signal'],
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    try {
      return await following(signal, (own) => {
        return following(this.#closing.signal, (closing) => work(AbortSignal.any([own, closing])));
      });
    } catch (error) {
      throw inOwnWords(error);
    }
  }
}

function readSpecial(given: unknown, method: string): { readonly specialTokens?: boolean } {
  const specialTokens = new Options(given, ['specialTokens'], `the options of ${method}`).flag(
    'specialTokens',
  );
  return specialTokens === undefined ? {} : { specialTokens };
}

function badInput(sentence: string): OperatingError {
  return new OperatingError('BAD_INPUT', sentence);
}
