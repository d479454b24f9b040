// Token ids in, text out, as soon as it is certain: what a tokenizer's decode gives, token by token.

import type { Tokenizer } from './tokenizer/tokenizer.js';
import { Utf8Run } from './utf8-run.js';

/** What a decoder puts in place of bytes that are no character, or not yet one. */
const REPLACEMENT = '\ufffd';

/** Prompt tokens that are decoded along as context, at first; more when they say too little. */
const CONTEXT_TOKENS = 8;

/** So many tokens may be held back before the certain part of them is looked for; a character is at most 4. */
const MOST_HELD_TOKENS = 16;
const CHARACTER_TOKENS = 4;

type TokenizerParts = Pick<Tokenizer, 'decode' | 'isSpecial' | 'byteOf'>;

/**
 * Decodes generated tokens one by one, as the continuation of a prompt.
 *
 * What a token says depends on its neighbours: SentencePiece drops the space of the first token of a text, and a
 * character may be spread over several tokens. So for each token a short window is decoded twice, without and with the
 * new tokens, and what the second text has more is new. The window moves on whenever the text ends in a whole character, and
 * when it holds many tokens without one, past those whose text cannot change any more.
 * The method is that of Hugging Face's text-generation-inference (prefix and read offset).
 *
 * Tokens that stand for one byte each are decoded run by run: all of a run are characters, or none is. So a run is held
 * back until another token ends it, or until a byte shows that it is no text.
 */
export class IncrementalDecoder {
  readonly #tokenizer: TokenizerParts;
  /** Context, then the tokens whose text is held back. */
  #window: number[];
  #contextTokens: number;
  /** The bytes up to here, where the last token stands for one. */
  #run: Utf8Run | undefined;

  constructor(tokenizer: TokenizerParts, promptIds: ArrayLike<number> = []) {
    this.#tokenizer = tokenizer;
    this.#window = promptContext(tokenizer, promptIds);
    this.#contextTokens = this.#window.length;
    for (const id of this.#window) this.#follow(id);
  }

  /** The text that became certain with this token; often of this token, sometimes none, sometimes of several. */
  push(tokenId: number): string {
    if (this.#tokenizer.isSpecial(tokenId)) return '';
    if (this.#run?.isBroken && this.#tokenizer.byteOf(tokenId) !== undefined) return REPLACEMENT;
    this.#window.push(tokenId);
    this.#follow(tokenId);
    if (this.#run && !this.#run.isBroken) return '';
    const { before, after } = this.#texts();
    if (this.#run) {
      // Whatever follows, this run is no text. Its last byte is all that matters to the token after it.
      this.#window = [tokenId];
      this.#contextTokens = 1;
      return continuation(before, after);
    }
    if (after === before || after.endsWith(REPLACEMENT)) return this.#certainPart(before, after);
    // Where the prompt ended within a character, its part of the character must stay with the rest.
    if (!before.endsWith(REPLACEMENT)) this.#window.splice(0, this.#contextTokens);
    this.#contextTokens = this.#window.length;
    return continuation(before, after);
  }

  /** What a special token says that is left out of the text; nothing for others. */
  hidden(tokenId: number): string {
    if (!this.#tokenizer.isSpecial(tokenId)) return '';
    return this.#tokenizer.decode([tokenId], { skipSpecialTokens: false });
  }

  /** What is still held back: an unfinished character, shown as U+FFFD. Nothing is held back afterwards. */
  end(): string {
    const { before, after } = this.#texts();
    this.#contextTokens = this.#window.length;
    return continuation(before, after);
  }

  /** Keeps account of runs of bytes. */
  #follow(tokenId: number): void {
    const byte = this.#tokenizer.byteOf(tokenId);
    if (byte === undefined) this.#run = undefined;
    else this.#run = (this.#run ?? new Utf8Run()).with(byte);
  }

  /** Bytes that never make a character, or tokens that say nothing, must not let the window grow. */
  #certainPart(before: string, after: string): string {
    const held = this.#window.length - this.#contextTokens;
    if (held < MOST_HELD_TOKENS) return '';
    if (after === before) {
      this.#window.length = this.#contextTokens;
      return '';
    }
    for (let rest = CHARACTER_TOKENS; rest < 2 * CHARACTER_TOKENS; rest++) {
      const split = this.#window.length - rest;
      const window = this.#window.slice(split - CHARACTER_TOKENS);
      const certain = this.#tokenizer.decode(this.#window.slice(0, split));
      const context = this.#tokenizer.decode(window.slice(0, CHARACTER_TOKENS));
      // A cut within a character would show in both, as another character in its place.
      if (!after.startsWith(certain) || !this.#tokenizer.decode(window).startsWith(context)) continue;
      this.#window = window;
      this.#contextTokens = CHARACTER_TOKENS;
      return continuation(before, certain);
    }
    return '';
  }

  #texts(): { before: string; after: string } {
    return {
      before: this.#tokenizer.decode(this.#window.slice(0, this.#contextTokens)),
      after: this.#tokenizer.decode(this.#window),
    };
  }
}

/** The end of the prompt: at least one token that shows, and no half character or run of bytes at the beginning. */
function promptContext(tokenizer: TokenizerParts, promptIds: ArrayLike<number>): number[] {
  /** The last is the first: of a long prompt no more than that is looked at. */
  const shown: number[] = [];
  let left = promptIds.length;
  const isByte = (id: number | undefined) => id !== undefined && tokenizer.byteOf(id) !== undefined;
  for (let count = CONTEXT_TOKENS; ; count *= 2) {
    while (shown.length <= count && left > 0) {
      const id = promptIds[--left] as number;
      if (!tokenizer.isSpecial(id)) shown.push(id);
    }
    if (shown.length <= count) return shown.reverse();
    const context = shown.slice(0, count).reverse();
    if (isByte(context[0]) && isByte(shown[count])) continue;
    const text = tokenizer.decode(context);
    if (text !== '' && !text.startsWith(REPLACEMENT)) return context;
  }
}

/** What `after` has beyond `before`. Where `before` ended in half a character, that character is part of the answer. */
function continuation(before: string, after: string): string {
  if (after.startsWith(before)) return after.slice(before.length);
  let common = 0;
  while (before[common] === after[common]) common++;
  return after.slice(common);
}
