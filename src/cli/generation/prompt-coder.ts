// Prompts of a list become token ids a few at a time, whenever they are needed: never all of them at once.

import { present } from '../../../offload/index.js';
import type { ChatTemplate, Message } from '../../text/chat.js';
import { badOption } from '../options/option-reader.js';
import type { PromptList } from './prompt-list.js';
import {
  checkEachLength,
  type EncodedPrompt,
  encodeEachPrompt,
  type PlacedPrompt,
  type Prompt,
  type Vocabulary,
} from './prompts.js';

/** So many are encoded together that it is fast, and so few that an interruption waits for milliseconds. */
const TOGETHER = 256;
const TOGETHER_CHARACTERS = 64 << 10;

export interface CodingOptions {
  readonly vocabulary: Vocabulary;
  readonly template: ChatTemplate | undefined;
  /** Undefined without --chat. */
  readonly chat: { readonly system: string | undefined } | undefined;
  readonly maxNewTokens: number;
  readonly maxContext: number | undefined;
  readonly contextName: string | undefined;
  readonly signal: AbortSignal | undefined;
}

export class PromptCoder {
  readonly #options: CodingOptions;

  constructor(options: CodingOptions) {
    this.#options = options;
  }

  /** The prompts at these places of the list, in that order, in batches. Throws the signal's reason. */
  async *encode(list: PromptList, indices: Iterable<number>): AsyncGenerator<readonly EncodedPrompt[], void> {
    for (const batch of batches(list, indices)) {
      this.#options.signal?.throwIfAborted();
      yield await this.#encodeBatch(batch);
    }
  }

  async #encodeBatch(batch: readonly PlacedPrompt[]): Promise<EncodedPrompt[]> {
    const { vocabulary, maxNewTokens, maxContext, contextName } = this.#options;
    const encoded = await encodeEachPrompt(batch, vocabulary, {
      chatOf: (prompt) => this.#chatOf(prompt),
      signal: this.#options.signal,
    });
    return checkEachLength(encoded, maxNewTokens, maxContext, contextName);
  }

  #chatOf(prompt: Prompt): string | undefined {
    const { chat, template } = this.#options;
    if (!chat && !('messages' in prompt)) return undefined;
    if ('tokenIds' in prompt)
      throw badOption('--chat is for prompts of text, and one is a list of token ids');
    const own: readonly Message[] =
      'messages' in prompt ? prompt.messages : [{ role: 'user', content: prompt.text }];
    const { system } = chat ?? {};
    const first =
      system === undefined || own[0]?.role === 'system' ? [] : [{ role: 'system', content: system } as const];
    return present(template, 'chat template').render([...first, ...own]);
  }
}

function* batches(list: PromptList, indices: Iterable<number>): Generator<readonly PlacedPrompt[], void> {
  let batch: PlacedPrompt[] = [];
  let characters = 0;
  for (const index of indices) {
    const prompt = list.at(index);
    batch.push([index, prompt]);
    characters += lengthOf(prompt);
    if (batch.length < TOGETHER && characters < TOGETHER_CHARACTERS) continue;
    yield batch;
    [batch, characters] = [[], 0];
  }
  if (batch.length > 0) yield batch;
}

function lengthOf(prompt: Prompt): number {
  if ('text' in prompt) return prompt.text.length;
  if ('tokenIds' in prompt) return prompt.tokenIds.length;
  return prompt.messages.reduce((sum, { content }) => sum + content.length, 0);
}
