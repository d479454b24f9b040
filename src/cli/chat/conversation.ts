// What has been said, and what can be taken back of it.

import type { Message } from '../../text/chat.js';

export class Conversation {
  #system: string | undefined;
  /** Users' messages and answers, in turns; only the last user's message may be without one. */
  #turns: Message[] = [];

  constructor(system: string | undefined) {
    this.#system = system;
  }

  get system(): string | undefined {
    return this.#system;
  }

  set system(text: string | undefined) {
    this.#system = text;
  }

  /** All of it, as the model is given it. */
  get messages(): readonly Message[] {
    const first = this.#system === undefined ? [] : [{ role: 'system', content: this.#system } as const];
    return [...first, ...this.#turns];
  }

  /** Messages of users. */
  get length(): number {
    return this.#turns.filter(({ role }) => role === 'user').length;
  }

  say(content: string): void {
    this.#turns.push({ role: 'user', content });
  }

  answer(content: string): void {
    this.#turns.push({ role: 'assistant', content });
  }

  /** Takes back the last message of the user, and what came after it. False where there is none. */
  undo(): boolean {
    const last = this.#turns.findLastIndex(({ role }) => role === 'user');
    if (last < 0) return false;
    this.#turns = this.#turns.slice(0, last);
    return true;
  }

  /** Takes back what came after the last message of the user. False where there is no message. */
  undoAnswer(): boolean {
    const last = this.#turns.findLastIndex(({ role }) => role === 'user');
    this.#turns = this.#turns.slice(0, last + 1);
    return last >= 0;
  }

  /** Begins anew, with the same system message. */
  reset(): void {
    this.#turns = [];
  }

  /** @param messages a system message comes first, if at all */
  replace(messages: readonly Message[]): void {
    const [first, ...rest] = messages;
    this.#system = first?.role === 'system' ? first.content : undefined;
    this.#turns = first?.role === 'system' ? rest : [...messages];
  }
}
