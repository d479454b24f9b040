// Answers of gpt-oss: messages on channels. Analysis is reasoning, what goes to a function is a call, all else is for people.

import type { AnswerPart, AnswerReader } from './answer-parts.js';
import { newCallId } from './call-reader.js';
import { findMarker } from './held.js';

const START = '<|start|>';
const CHANNEL = '<|channel|>';
const MESSAGE = '<|message|>';
const ENDS = ['<|end|>', '<|call|>', '<|return|>'] as const;
const NEXT = [...ENDS, START, CHANNEL];

/** Which part of an answer the text of a message is. */
type Kind = 'content' | 'reasoning' | 'call';

export class HarmonyReader implements AnswerReader {
  #held = '';
  /** Within a header, whose text is held; within a message of a kind; or between two. The prompt has begun the first header. */
  #state: 'between' | 'header' | Kind = 'header';
  #calls = 0;

  push(text: string): readonly AnswerPart[] {
    this.#held += text;
    return this.#read(false);
  }

  end(): readonly AnswerPart[] {
    return this.#read(true);
  }

  #read(isEnd: boolean): AnswerPart[] {
    const parts: AnswerPart[] = [];
    while (this.#step(parts, isEnd));
    return parts;
  }

  /** Whether there is more to read. */
  #step(parts: AnswerPart[], isEnd: boolean): boolean {
    if (this.#state === 'header') return this.#readHeader(parts, isEnd);
    const { at, marker } = findMarker(this.#held, this.#state === 'between' ? [...NEXT, MESSAGE] : NEXT);
    const cut = isEnd && marker === undefined ? this.#held.length : at;
    this.#tell(this.#held.slice(0, cut), parts);
    this.#held = this.#held.slice(cut);
    if (marker === undefined) return false;
    if (marker === START || marker === CHANNEL) this.#state = 'header';
    else {
      this.#held = this.#held.slice(marker.length);
      this.#state = marker === MESSAGE ? 'content' : 'between';
    }
    return true;
  }

  /** From its first mark to `<|message|>`. A header that breaks off, or runs into the next one, is text. */
  #readHeader(parts: AnswerPart[], isEnd: boolean): boolean {
    const end = this.#held.indexOf(MESSAGE);
    const broken = findMarker(this.#held.slice(1), [...ENDS, START]);
    const isBroken = broken.marker !== undefined && (end < 0 || broken.at + 1 < end);
    if (isBroken || (end < 0 && isEnd)) {
      const length = isBroken ? broken.at + 1 : this.#held.length;
      this.#state = 'between';
      parts.push({ kind: 'content', text: this.#held.slice(0, length) });
      this.#held = this.#held.slice(length);
      return !isEnd || this.#held !== '';
    }
    if (end < 0) return false;
    this.#open(this.#held.slice(0, end), parts);
    this.#held = this.#held.slice(end + MESSAGE.length);
    return true;
  }

  #open(header: string, parts: AnswerPart[]): void {
    const [, name] = /to=functions\.([\w.-]+)/.exec(header) ?? [];
    const [, channel = 'final'] = /<\|channel\|>\s*(\w+)/.exec(header) ?? [];
    if (name !== undefined) {
      parts.push({ kind: 'call', index: this.#calls++, id: newCallId(), name });
      this.#state = 'call';
    } else {
      this.#state = channel === 'analysis' ? 'reasoning' : 'content';
    }
  }

  #tell(text: string, parts: AnswerPart[]): void {
    if (text === '') return;
    if (this.#state === 'call') parts.push({ kind: 'arguments', index: this.#calls - 1, text });
    else if (this.#state === 'reasoning') parts.push({ kind: 'reasoning', text });
    // Between messages there is nothing where a model keeps to the format.
    else parts.push({ kind: 'content', text });
  }
}
