// What a program gives to go on from, checked at once and made token ids of.

import { OperatingError } from '../../offload/index.js';
import { type ChatTemplate, chatTemplateText, loadChatTemplate, type TemplateMessage } from '../text/chat.js';
import { isLongChat, renderAside } from '../text/template-aside.js';
import { idProblem } from '../text/token-ids.js';
import { encodeLongText, type LongTextOptions } from '../text/tokenizer/long-text.js';
import { loadTokenizer, type Tokenizer } from '../text/tokenizer/tokenizer.js';
import { badOption, Options, shown } from './option-check.js';
import type { Message, Prompt } from './types.js';

export type CheckedPrompt =
  | { readonly text: string }
  | {
      readonly messages: readonly (Message | TemplateMessage)[];
      /** For the template, beside the messages. */
      readonly variables?: Readonly<Record<string, unknown>>;
    }
  | { readonly tokens: Int32Array };

const ROLES: readonly string[] = ['system', 'user', 'assistant'] satisfies Message['role'][];

/** A copy, so that nobody changes it on the way. Throws BAD_INPUT or, where `system` is of no use, BAD_OPTION. */
export function readPrompt(given: Prompt, system: string | undefined, vocabSize: number): CheckedPrompt {
  const isConversation = typeof given === 'object' && given !== null && 'messages' in given;
  if (system !== undefined && !isConversation) {
    throw badOption('system is for prompts of messages: write it into the text, or give { messages }');
  }
  if (typeof given === 'string') return { text: given };
  if (Object.prototype.toString.call(given) !== '[object Object]') {
    throw badInput(`the prompt is ${shown(given)}: give a text, { messages } or { tokens }`);
  }
  const parts = new Options(given, ['messages', 'tokens'], 'the prompt', badInput);
  if (parts.has('messages') === parts.has('tokens')) {
    throw badInput('the prompt is an object without, or with both of, messages and tokens: give one of them');
  }
  if (parts.has('tokens')) return { tokens: readIds(parts.value('tokens'), vocabSize, 'the prompt') };
  return { messages: readMessages(parts.value('messages'), system) };
}

/** A copy. Throws BAD_INPUT. */
export function readIds(given: unknown, vocabSize: number, what: string): Int32Array {
  const isList = Array.isArray(given) || Object.prototype.toString.call(given) === '[object Int32Array]';
  if (!isList)
    throw badInput(`${what} has ${shown(given)} as tokens: give a list of numbers, or an Int32Array`);
  const problem = idProblem(given as ArrayLike<unknown>, vocabSize, what);
  if (problem) throw problem;
  return Int32Array.from(given as ArrayLike<number>);
}

function readMessages(given: unknown, system: string | undefined): readonly Message[] {
  if (!Array.isArray(given) || given.length === 0) {
    throw badInput(
      `messages is ${shown(given)}${Array.isArray(given) ? ' without any' : ''}: give at least one message`,
    );
  }
  const messages = given.map((message: unknown, index): Message => {
    const at = `message ${index}`;
    if (typeof message !== 'object' || message === null) {
      throw badInput(`${at} is ${shown(message)}: give an object with role and content`);
    }
    const parts = new Options(message, ['role', 'content'], at, (sentence) => badInput(`${at}: ${sentence}`));
    const [role, content] = [parts.value('role'), parts.value('content')];
    if (typeof role !== 'string' || !ROLES.includes(role)) {
      throw badInput(`${at} has the role ${shown(role)}: give one of ${ROLES.join(', ')}`);
    }
    if (typeof content !== 'string') throw badInput(`${at} has ${shown(content)} as content: give a text`);
    return { role: role as Message['role'], content };
  });
  const addsSystem = system !== undefined && messages[0]?.role !== 'system';
  return addsSystem ? [{ role: 'system', content: system }, ...messages] : messages;
}

function badInput(sentence: string): OperatingError {
  return new OperatingError('BAD_INPUT', sentence);
}

/** Texts to ids and back with what lies beside the weights, loaded when it is first asked for. */
export class Coder {
  readonly #folder: string;
  readonly #startToken: number | undefined;
  readonly #vocabSize: number;
  readonly #tokenizer: Tokenizer | undefined;
  #template: Promise<ChatTemplate> | undefined;

  /**
   * @param tokenizer undefined where there is none: asking for texts then says what is missing
   * @param startToken what a text without tokens begins with
   */
  constructor(
    folder: string,
    vocabulary: {
      readonly tokenizer: Tokenizer | undefined;
      readonly startToken: number | undefined;
      readonly size: number;
    },
  ) {
    this.#folder = folder;
    this.#tokenizer = vocabulary.tokenizer;
    this.#startToken = vocabulary.startToken;
    this.#vocabSize = vocabulary.size;
  }

  /** Undefined where there is none. */
  get optionalTokenizer(): Tokenizer | undefined {
    return this.#tokenizer;
  }

  /** Rejects with BAD_TOKENIZER where there is none. */
  async tokenizer(): Promise<Tokenizer> {
    return this.#tokenizer ?? loadTokenizer(this.#folder);
  }

  /**
   * At least one id of the vocabulary. Rejects with BAD_INPUT, BAD_OPTION, BAD_TOKENIZER, UNSUPPORTED or EMPTY_PROMPT.
   * @param mostTokens a text that is known to have more is not taken to its end: PROMPT_TOO_LONG
   */
  async encode(prompt: CheckedPrompt, signal: AbortSignal, mostTokens?: number): Promise<Int32Array> {
    const ids = 'tokens' in prompt ? prompt.tokens : await this.#encodeText(prompt, { signal, mostTokens });
    const problem = idProblem(ids, this.#vocabSize, 'the prompt');
    if (problem) throw problem;
    if (ids.length > 0) return ids;
    if (this.#startToken !== undefined) return Int32Array.of(this.#startToken);
    throw new OperatingError(
      'EMPTY_PROMPT',
      'the prompt has no tokens, and the model has no start token to begin with: give some text',
    );
  }

  async #encodeText(
    prompt: Exclude<CheckedPrompt, { readonly tokens: Int32Array }>,
    options: LongTextOptions,
  ): Promise<Int32Array> {
    const tokenizer = await this.tokenizer();
    if ('text' in prompt) return encodeLongText(tokenizer, [prompt.text], options);
    this.#template ??= this.#loadTemplate();
    // What is missing may be there when it is asked for again.
    this.#template.catch(() => {
      this.#template = undefined;
    });
    const template = await this.#template;
    const { messages, variables = {} } = prompt;
    const text = isLongChat([messages, variables])
      ? await renderAside({ folder: this.#folder, messages, variables })
      : template.render(messages, variables);
    return encodeLongText(tokenizer, [text], { ...options, bare: true });
  }

  async #loadTemplate(): Promise<ChatTemplate> {
    if ((await chatTemplateText(this.#folder)) === undefined) {
      throw badOption(
        `prompts of messages need a chat template, and ${this.#folder} has none: give a text, or open a model that is made for chats`,
      );
    }
    return loadChatTemplate(this.#folder);
  }
}
