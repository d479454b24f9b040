// Token ids in, text out, as soon as it is certain: the streaming side of a tokenizer's decode.

import type { Tokenizer } from './tokenizer.js';

/** What a decoder puts in place of bytes that are no character, or not yet one. */
const REPLACEMENT = '\ufffd';

/** Prompt tokens that are decoded along as context, at first; more when they say too little. */
const CONTEXT_TOKENS = 8;

/**
 * Decodes generated tokens one by one, as the continuation of a prompt.
 *
 * What a token says depends on its neighbours: SentencePiece drops the space of the first token of a text, and a
 * character may be spread over several tokens. So each step decodes a short window twice, without and with the new
 * tokens, and what the second has more is new. The window moves on whenever the text ends in a whole character, so it
 * stays a few tokens long; only output that is no text at all (bytes that never make a character) lets it grow.
 * The method is that of Hugging Face's text-generation-inference (prefix and read offset).
 */
export class TextStream {
  readonly #tokenizer: Pick<Tokenizer, 'decode' | 'isSpecial'>;
  /** Context, then the tokens whose text is held back. */
  #window: number[];
  #contextTokens: number;

  constructor(tokenizer: Pick<Tokenizer, 'decode' | 'isSpecial'>, promptIds: readonly number[] = []) {
    this.#tokenizer = tokenizer;
    this.#window = promptContext(tokenizer, promptIds);
    this.#contextTokens = this.#window.length;
  }

  /** The text that became certain with this token; often of this token, sometimes none, sometimes of several. */
  push(tokenId: number): string {
    if (this.#tokenizer.isSpecial(tokenId)) return '';
    this.#window.push(tokenId);
    const { before, after } = this.#texts();
    if (after === before || after.endsWith(REPLACEMENT)) return '';
    // A prompt that ended within a character: its part of the character must stay with the rest.
    if (!before.endsWith(REPLACEMENT)) this.#window.splice(0, this.#contextTokens);
    this.#contextTokens = this.#window.length;
    return continuation(before, after);
  }

  /** What is still held back: an unfinished character, shown as U+FFFD. The stream is empty afterwards. */
  end(): string {
    const { before, after } = this.#texts();
    this.#contextTokens = this.#window.length;
    return continuation(before, after);
  }

  #texts(): { before: string; after: string } {
    return {
      before: this.#tokenizer.decode(this.#window.slice(0, this.#contextTokens)),
      after: this.#tokenizer.decode(this.#window),
    };
  }
}

/** The end of the prompt: at least one token that shows, and no half character at the beginning. */
function promptContext(
  tokenizer: Pick<Tokenizer, 'decode' | 'isSpecial'>,
  promptIds: readonly number[],
): number[] {
  const shown = promptIds.filter((id) => !tokenizer.isSpecial(id));
  for (let count = CONTEXT_TOKENS; count < shown.length; count *= 2) {
    const context = shown.slice(-count);
    const text = tokenizer.decode(context);
    if (text !== '' && !text.startsWith(REPLACEMENT)) return context;
  }
  return shown;
}

/** What `after` has beyond `before`. Where `before` ended in half a character, that character is part of the answer. */
function continuation(before: string, after: string): string {
  if (after.startsWith(before)) return after.slice(before.length);
  let common = 0;
  while (before[common] === after[common]) common++;
  return after.slice(common);
}
