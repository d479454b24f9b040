// Stop strings: text is passed on up to the first of them, also where one begins in one token and ends in another, in the
// prompt or in a special token, which is not part of the text.

/** A text that comes in pieces, cut before the first stop string in it. */
export class StopStrings {
  readonly #strings: readonly string[];
  readonly #longest: number;
  /** Text that may be the beginning of a stop string, and what is left out of it; each as it came. */
  #held: Piece[] = [];
  #stopped = false;

  /**
   * @param strings none of them empty
   * @param before the end of what the text goes on from: a stop string may begin in it, as in transformers
   */
  constructor(strings: readonly string[], before = '') {
    this.#strings = strings;
    this.#longest = Math.max(1, ...strings.map(({ length }) => length));
    const end = before.slice(before.length - (this.#longest - 1));
    if (this.#longest > 1 && end !== '') this.#held = [{ text: end, kind: 'before' }];
    this.#release();
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /** The text that is certain with this piece; nothing after a stop. */
  push(piece: string): string {
    return this.#add({ text: piece, kind: 'text' });
  }

  /** The same for a special token: a stop string may lie in it, but the text does not hold it. */
  pushHidden(piece: string): string {
    return this.#add({ text: piece, kind: 'hidden' });
  }

  /** What was held back: no stop string has come of it. */
  end(): string {
    const rest = shownText(this.#held);
    this.#held = [];
    return rest;
  }

  #add(piece: Piece): string {
    if (this.#stopped || piece.text === '') return '';
    if (this.#strings.length === 0) return piece.kind === 'text' ? piece.text : '';
    this.#held.push(piece);
    const found = this.#views()
      .map((view) => this.#firstIn(view))
      .filter((at) => at !== undefined);
    if (found.length === 0) return this.#release();
    this.#stopped = true;
    const text = shownText(split(this.#held, Math.min(...found)).head);
    this.#held = [];
    return text;
  }

  /** Passes on what no stop string can begin in. */
  #release(): string {
    const certain = Math.min(...this.#views().map((view) => this.#unfinishedFrom(view)));
    const { head, tail } = split(this.#held, certain);
    this.#held = tail;
    return shownText(head);
  }

  /** What stop strings are looked for in: all that came, and what is shown of it, where that is another. */
  #views(): View[] {
    const all = this.#held;
    const views = [viewOf(all, () => true)];
    if (all.some(({ kind }) => kind === 'hidden')) views.push(viewOf(all, ({ kind }) => kind !== 'hidden'));
    return views;
  }

  /** Where the first stop string that does not end in the prompt begins, in all that is held. */
  #firstIn({ text, place, given }: View): number | undefined {
    let first: number | undefined;
    for (const string of this.#strings) {
      const at = text.indexOf(string, Math.max(0, given - string.length + 1));
      if (at >= 0 && (first === undefined || at < first)) first = at;
    }
    return first === undefined ? undefined : place(first);
  }

  /** Where the longest end that a stop string may begin with begins, in all that is held. */
  #unfinishedFrom({ text, place }: View): number {
    for (let length = Math.min(this.#longest - 1, text.length); length > 0; length--) {
      const end = text.slice(text.length - length);
      if (this.#strings.some((string) => string.startsWith(end))) return place(text.length - length);
    }
    return place(text.length);
  }
}

interface Piece {
  readonly text: string;
  readonly kind: 'text' | 'hidden' | 'before';
}

interface View {
  readonly text: string;
  /** How many of its characters are the prompt's. */
  readonly given: number;
  /** A place in it, as a place in all that is held. */
  place(at: number): number;
}

function viewOf(pieces: readonly Piece[], belongs: (piece: Piece) => boolean): View {
  const inside = pieces.filter(belongs);
  const given = inside.reduce((sum, { text, kind }) => sum + (kind === 'before' ? text.length : 0), 0);
  const place = (at: number) => {
    let [start, seen] = [0, 0];
    for (const piece of pieces) {
      if (belongs(piece)) {
        if (at < seen + piece.text.length) return start + at - seen;
        seen += piece.text.length;
      }
      start += piece.text.length;
    }
    return start;
  };
  return { text: inside.map(({ text }) => text).join(''), given, place };
}

function split(pieces: readonly Piece[], at: number): { head: Piece[]; tail: Piece[] } {
  const [head, tail]: [Piece[], Piece[]] = [[], []];
  let start = 0;
  for (const { text, kind } of pieces) {
    const cut = Math.min(Math.max(at - start, 0), text.length);
    if (cut > 0) head.push({ text: text.slice(0, cut), kind });
    if (cut < text.length) tail.push({ text: text.slice(cut), kind });
    start += text.length;
  }
  return { head, tail };
}

function shownText(pieces: readonly Piece[]): string {
  return pieces.map(({ text, kind }) => (kind === 'text' ? text : '')).join('');
}

/** Makes text of tokens as they come. */
interface TokenDecoder {
  push(tokenId: number): string;
  end(): string;
  /** The text of a token that the decoder leaves out. */
  hidden?(tokenId: number): string;
}

/** A decoder whose text ends before a stop string. */
export class StoppingDecoder implements TokenDecoder {
  readonly #decoder: TokenDecoder;
  readonly #stop: StopStrings;
  readonly #idle: boolean;

  /** @param before the end of the prompt's text */
  constructor(decoder: TokenDecoder, strings: readonly string[], before = '') {
    this.#decoder = decoder;
    this.#stop = new StopStrings(strings, before);
    this.#idle = strings.length === 0;
  }

  /** A stop string is complete: later tokens say nothing. */
  get stopped(): boolean {
    return this.#stop.stopped;
  }

  push(tokenId: number): string {
    if (this.#idle) return this.#decoder.push(tokenId);
    const hidden = this.#decoder.hidden?.(tokenId) ?? '';
    return this.#stop.push(this.#decoder.push(tokenId)) + this.#stop.pushHidden(hidden);
  }

  end(): string {
    return this.#stop.push(this.#decoder.end()) + this.#stop.end();
  }
}

/** As much of a prompt's end as a stop string may begin in, with special tokens as they are written. */
export function promptEnd(
  tokenizer: { decode(ids: readonly number[], options: { skipSpecialTokens: boolean }): string },
  promptIds: ArrayLike<number>,
  strings: readonly string[],
): string {
  const longest = Math.max(0, ...strings.map(({ length }) => length));
  // A token is at least a byte, and a character at most four. One more, as the first may lose its space.
  const ids: number[] = Array.prototype.slice.call(promptIds, -(4 * longest + 1));
  return longest === 0 ? '' : tokenizer.decode(ids, { skipSpecialTokens: false });
}
