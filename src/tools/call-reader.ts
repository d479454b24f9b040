// Calls told from text as an answer comes: what may be a call is held back until it is one, or is known to be none.

import { randomUUID } from 'node:crypto';
import type { AnswerPart, AnswerReader } from './answer-parts.js';
import type { CallFormat, Reading } from './call-format.js';
import { findMarker } from './held.js';

export class CallReader implements AnswerReader {
  readonly #format: CallFormat;
  #held = '';
  #calls = 0;
  /** What came last, other than spaces. */
  #behind: 'nothing' | 'call' | 'text' = 'nothing';

  constructor(format: CallFormat) {
    this.#format = format;
  }

  push(text: string): readonly AnswerPart[] {
    this.#held += text;
    return this.#read(false);
  }

  end(): readonly AnswerPart[] {
    return this.#read(true);
  }

  #read(isEnd: boolean): AnswerPart[] {
    const parts: AnswerPart[] = [];
    for (;;) {
      const { at, marker } = this.#findOpening();
      this.#tellText(
        this.#held.slice(0, at),
        parts,
        isEnd && marker === undefined && at === this.#held.length,
      );
      if (marker === undefined) {
        if (isEnd) this.#tellText(this.#held, parts, true);
        return parts;
      }
      const reading: Reading = this.#format.read(this.#held.slice(skipped(this.#held)));
      if (reading === 'more' && !isEnd) return parts;
      if (typeof reading === 'string') this.#tellOpening(marker, parts);
      else this.#tellCalls(reading, parts);
    }
  }

  #findOpening(): { readonly at: number; readonly marker: string | undefined } {
    const { openings, openingsAtStart = [], openingsAfterCall = [] } = this.#format;
    const start = skipped(this.#held);
    const here = { nothing: openingsAtStart, call: openingsAfterCall, text: [] }[this.#behind];
    if (start < this.#held.length) {
      const first = here.find((opening) => this.#held.startsWith(opening, start));
      if (first !== undefined) return { at: start, marker: first };
    }
    return findMarker(this.#held, openings);
  }

  /** Spaces before a call, and those behind the last one, are of its format; so they are held until something else follows. */
  #tellText(text: string, parts: AnswerPart[], isEnd: boolean): void {
    const shown = isEnd && this.#calls === 0 ? text : text.trimEnd();
    if (shown === '') {
      if (isEnd) this.#held = '';
      return;
    }
    parts.push({ kind: 'content', text: shown });
    this.#behind = 'call';
    this.#held = isEnd ? '' : this.#held.slice(shown.length);
  }

  /** What began like a call, as text, with the spaces before it. */
  #tellOpening(marker: string, parts: AnswerPart[]): void {
    const length = skipped(this.#held) + marker.length;
    parts.push({ kind: 'content', text: this.#held.slice(0, length) });
    this.#held = this.#held.slice(length);
    this.#behind = 'call';
  }

  #tellCalls({ calls, length }: Exclude<Reading, string>, parts: AnswerPart[]): void {
    for (const { name, arguments: given } of calls) {
      const index = this.#calls++;
      parts.push({ kind: 'call', index, id: newCallId(), name }, { kind: 'arguments', index, text: given });
    }
    this.#held = this.#held.slice(skipped(this.#held) + length);
    this.#behind = 'call';
  }
}

export function newCallId(): string {
  return `call_${randomUUID().replaceAll('-', '')}`;
}

function skipped(text: string): number {
  return text.length - text.trimStart().length;
}
