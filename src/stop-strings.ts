// Stop strings: text is passed on up to the first of them, also where one begins in one token and ends in another.

/** A text that comes in pieces, cut before the first stop string in it. */
export class StopStrings {
  readonly #strings: readonly string[];
  /** Text that may be the beginning of a stop string. */
  #held = '';
  #stopped = false;

  /** @param strings none of them empty */
  constructor(strings: readonly string[]) {
    this.#strings = strings;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /** The text that is certain with this piece; nothing after a stop. */
  push(piece: string): string {
    if (this.#stopped) return '';
    const text = this.#held + piece;
    const found = this.#strings.map((string) => text.indexOf(string)).filter((at) => at >= 0);
    this.#stopped = found.length > 0;
    const certain = this.#stopped ? Math.min(...found) : text.length - this.#unfinished(text);
    this.#held = this.#stopped ? '' : text.slice(certain);
    return text.slice(0, certain);
  }

  /** What was held back: no stop string has come of it. */
  end(): string {
    const rest = this.#held;
    this.#held = '';
    return rest;
  }

  /** Length of the longest end of `text` with which a stop string begins. */
  #unfinished(text: string): number {
    const longest = Math.max(0, ...this.#strings.map(({ length }) => length - 1));
    for (let length = Math.min(longest, text.length); length > 0; length--) {
      const end = text.slice(text.length - length);
      if (this.#strings.some((string) => string.startsWith(end))) return length;
    }
    return 0;
  }
}

/** What a stream of tokens becomes text with. */
interface TokenStream {
  push(tokenId: number): string;
  end(): string;
}

/** A stream of tokens whose text ends before a stop string. */
export class StoppingStream implements TokenStream {
  readonly #stream: TokenStream;
  readonly #stop: StopStrings;

  constructor(stream: TokenStream, strings: readonly string[]) {
    this.#stream = stream;
    this.#stop = new StopStrings(strings);
  }

  /** A stop string is complete: later tokens say nothing. */
  get stopped(): boolean {
    return this.#stop.stopped;
  }

  push(tokenId: number): string {
    return this.#stop.push(this.#stream.push(tokenId));
  }

  end(): string {
    return this.#stop.push(this.#stream.end()) + this.#stop.end();
  }
}
