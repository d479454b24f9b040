// Reasoning told from what follows it, by the marks around it.

import type { AnswerPart, AnswerReader } from './answer-parts.js';
import { findMarker } from './held.js';

export interface ReasoningMarks {
  readonly open: string;
  readonly close: string;
}

export const THINK_TAGS: ReasoningMarks = { open: '<think>', close: '</think>' };
export const MISTRAL_THINK: ReasoningMarks = { open: '[THINK]', close: '[/THINK]' };

type State = 'before' | 'within' | 'behind' | 'answer';

/** Reasoning comes first or not at all; what follows it is read by `rest`. */
export class ReasoningReader implements AnswerReader {
  readonly #marks: ReasoningMarks;
  readonly #rest: AnswerReader;
  #state: State;
  #held = '';

  /** @param isOpen the prompt has opened it */
  constructor(marks: ReasoningMarks, rest: AnswerReader, isOpen: boolean) {
    this.#marks = marks;
    this.#rest = rest;
    this.#state = isOpen ? 'within' : 'before';
  }

  push(text: string): readonly AnswerPart[] {
    this.#held += text;
    return this.#read(false);
  }

  end(): readonly AnswerPart[] {
    return [...this.#read(true), ...this.#rest.end()];
  }

  #read(isEnd: boolean): AnswerPart[] {
    const parts: AnswerPart[] = [];
    if (this.#state === 'before' && !this.#begin(isEnd)) return parts;
    if (this.#state === 'within' && !this.#tell(parts, isEnd)) return parts;
    if (this.#state === 'behind') {
      // Lines between reasoning and answer are the template's.
      this.#held = this.#held.trimStart();
      if (this.#held === '') return parts;
      this.#state = 'answer';
    }
    if (this.#held !== '') parts.push(...this.#rest.push(this.#held));
    this.#held = '';
    return parts;
  }

  /** False where it is not known whether there is any. */
  #begin(isEnd: boolean): boolean {
    const { open, close } = this.#marks;
    const start = this.#held.trimStart();
    if (start.startsWith(open)) {
      this.#held = start.slice(open.length);
      this.#state = 'within';
    } else if (isEnd || !open.startsWith(start)) {
      this.#state = start.startsWith(close) ? 'behind' : 'answer';
      if (this.#state === 'behind') this.#held = start.slice(close.length);
    }
    return this.#state !== 'before';
  }

  /** False where it goes on. */
  #tell(parts: AnswerPart[], isEnd: boolean): boolean {
    const { at, marker } = findMarker(this.#held, [this.#marks.close]);
    const cut = isEnd && marker === undefined ? this.#held.length : at;
    const text = this.#held.slice(0, cut);
    // Spaces at its end wait: before its end mark they are the template's.
    const shown = isEnd && marker === undefined ? text : text.trimEnd();
    const first = this.#isEmpty ? shown.trimStart() : shown;
    if (first !== '') {
      parts.push({ kind: 'reasoning', text: first });
      this.#isEmpty = false;
    }
    if (marker === undefined) {
      this.#held = this.#held.slice(shown.length);
      if (this.#isEmpty) this.#held = this.#held.trimStart();
      return false;
    }
    this.#held = this.#held.slice(at + marker.length);
    this.#state = 'behind';
    return true;
  }

  #isEmpty = true;
}
