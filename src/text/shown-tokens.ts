// Text in which some special tokens stand as they are written: those that tell its parts from each other.

import type { IncrementalDecoder } from './text-decoder.js';
import type { Tokenizer } from './tokenizer/tokenizer.js';

export class ShownTokensDecoder {
  readonly #decoder: IncrementalDecoder;
  readonly #shown: ReadonlyMap<number, string>;

  /** @param shown what special tokens are written as, by id */
  constructor(decoder: IncrementalDecoder, shown: ReadonlyMap<number, string>) {
    this.#decoder = decoder;
    this.#shown = shown;
  }

  push(tokenId: number): string {
    const text = this.#shown.get(tokenId);
    return text === undefined ? this.#decoder.push(tokenId) : this.#decoder.end() + text;
  }

  hidden(tokenId: number): string {
    return this.#shown.has(tokenId) ? '' : this.#decoder.hidden(tokenId);
  }

  end(): string {
    return this.#decoder.end();
  }
}

/** Which of these are one special token each. */
export async function specialTokensOf(
  tokenizer: Pick<Tokenizer, 'encodeBare' | 'isSpecial'>,
  texts: readonly string[],
): Promise<ReadonlyMap<number, string>> {
  const found = new Map<number, string>();
  for (const text of texts) {
    const [id, more] = await tokenizer.encodeBare(text);
    if (id !== undefined && more === undefined && tokenizer.isSpecial(id)) found.set(id, text);
  }
  return found;
}
