// A text that obeys a grammar: which tokens may come next is asked of a thread, and of another one where that is lost.

import { OperatingError, type TokenMask } from '../../offload/index.js';
import type { TokenConstraint } from '../engine/request.js';
import type { Grammar } from './grammar.js';
import type { MatcherThread } from './matcher-thread.js';
import { ThreadLost } from './thread.js';

export interface GrammarConstraintOptions {
  readonly key: string;
  readonly grammar: Grammar;
  /** Tokens after which it begins; none for at once. */
  readonly after: readonly number[];
  readonly thread: MatcherThread;
  /** One in place of a thread that is lost. */
  readonly again: () => Promise<MatcherThread>;
}

interface Place {
  readonly thread: MatcherThread;
  readonly matcher: number;
  readonly mask: SharedArrayBuffer;
  /** Tokens that it has taken; undefined before the first step. */
  taken: number | undefined;
}

/** Threads may be lost by others' grammars, but not again and again. */
const MOST_THREADS = 3;

export class GrammarConstraint implements TokenConstraint {
  readonly #options: GrammarConstraintOptions;
  #place: Place | undefined;
  /** Where the grammar begins; undefined while it has not. */
  #start: number | undefined;
  #looked = 0;
  #last: { readonly tokens: number; readonly mask: Promise<TokenMask> } | undefined;
  #isClosed = false;

  constructor(options: GrammarConstraintOptions) {
    this.#options = options;
    this.#place = placeIn(options.thread);
    if (options.after.length === 0) this.#start = 0;
  }

  after(newTokens: readonly number[]): Promise<TokenMask> {
    const count = newTokens.length;
    if (this.#last?.tokens === count) return this.#last.mask;
    const mask = this.#maskAfter(newTokens);
    this.#last = { tokens: count, mask };
    return mask;
  }

  close(): void {
    this.#isClosed = true;
    this.#leave();
  }

  async #maskAfter(newTokens: readonly number[]): Promise<TokenMask> {
    this.#start ??= this.#findStart(newTokens);
    if (this.#start === undefined) return undefined;
    for (let tries = 0; tries < MOST_THREADS; tries++) {
      try {
        return await this.#step(newTokens.slice(this.#start));
      } catch (error) {
        if (!(error instanceof ThreadLost)) throw error;
        if (error.hung && error.matcher === this.#place?.matcher) throw refused(error.message);
        this.#leave();
      }
    }
    throw refused('its thread was lost too often');
  }

  /** Behind the first place where the tokens of `after` come one after the other. */
  #findStart(newTokens: readonly number[]): number | undefined {
    const { after } = this.#options;
    for (; this.#looked + after.length <= newTokens.length; this.#looked++) {
      const at = this.#looked;
      if (after.every((token, index) => newTokens[at + index] === token)) return at + after.length;
    }
    return undefined;
  }

  async #step(tokens: readonly number[]): Promise<TokenMask> {
    this.#place ??= placeIn(await this.#options.again());
    const place = this.#place;
    const { thread, matcher, mask, taken } = place;
    const { key, grammar } = this.#options;
    const open = taken === undefined ? { open: { key, grammar, mask } } : {};
    const problem = await thread.step({ matcher, ...open, tokens: tokens.slice(taken ?? 0) });
    place.taken = tokens.length;
    if (problem !== undefined) throw refused(problem);
    return new Uint32Array(mask);
  }

  #leave(): void {
    this.#place?.thread.finish(this.#place.matcher);
    this.#place = undefined;
    // It takes no place again.
    if (this.#isClosed) this.#last = { tokens: -1, mask: Promise.resolve(undefined) };
  }
}

function placeIn(thread: MatcherThread): Place {
  return { thread, ...thread.begin(), taken: undefined };
}

function refused(problem: string): OperatingError {
  return new OperatingError('BAD_INPUT', `the text cannot go on by its grammar: ${problem}`);
}
