// Grammars of a model's vocabulary: checked, compiled in threads of their own, and given to texts as constraints.

import { OperatingError, present } from '../../offload/index.js';
import type { TokenConstraint } from '../engine/request.js';
import { GrammarConstraint } from './constraint.js';
import { type Grammar, wellFormed } from './grammar.js';
import { MatcherThread } from './matcher-thread.js';
import type { Vocabulary } from './messages.js';
import { GrammarThread } from './thread.js';
import { type VocabularyOptions, vocabularyOf } from './vocabulary.js';

export interface GrammarsOptions extends VocabularyOptions {
  /** Threads that say what may come next; default 2. */
  readonly threads?: number;
  /** One grammar, or one token, may take so long; default 10 s. */
  readonly mostMs?: number;
}

export interface ConstraintOptions {
  /** Tokens after which the grammar begins; until then, anything may come: the end of a part for thoughts. Default at once. */
  readonly after?: readonly number[];
}

/** Failures leave something behind in the thread that looks at grammars first, so it is replaced at times. */
const MOST_FAILURES = 32;

export class Grammars {
  readonly #options: GrammarsOptions;
  readonly #mostMs: number;
  readonly #threads: MatcherThread[] = [];
  #vocabulary: Promise<Vocabulary> | undefined;
  #checker: GrammarThread | undefined;
  #failures = 0;
  /** Those that were found to be grammars; the one that was used last is the last. */
  readonly #sound = new Set<string>();
  #isClosed = false;

  /** Nothing is made before the first grammar comes. */
  constructor(options: GrammarsOptions) {
    this.#options = options;
    this.#mostMs = options.mostMs ?? 10_000;
  }

  /**
   * For one text; its `close` is to be called. Rejects with BAD_INPUT for what is no grammar, is not supported, or takes too long.
   */
  async constraint(grammar: Grammar, { after = [] }: ConstraintOptions = {}): Promise<TokenConstraint> {
    const own = wellFormed(grammar);
    const key = JSON.stringify(own);
    await this.#check(key, own);
    const thread = await this.#thread(key);
    await thread.compile(key, own);
    return new GrammarConstraint({ key, grammar: own, after, thread, again: () => this.#thread(key) });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all([this.#checker?.end(), ...this.#threads.map((thread) => thread.end())]);
  }

  /** In a thread of its own, so that what breaks it breaks no text. */
  async #check(key: string, grammar: Grammar): Promise<void> {
    if (this.#sound.delete(key)) {
      this.#sound.add(key);
      return;
    }
    if (this.#isClosed) throw new OperatingError('CLOSED', 'the engine is closed: open another one');
    if (!this.#checker || this.#checker.isLost) this.#checker = new GrammarThread(this.#mostMs);
    const checker = this.#checker;
    const { problem } = await checker
      .run({ kind: 'check', grammar })
      .catch((error: Error) => ({ problem: error.message }));
    if (problem !== undefined) {
      if (++this.#failures % MOST_FAILURES === 0 && this.#checker === checker) {
        this.#checker = undefined;
        void checker.end();
      }
      throw new OperatingError('BAD_INPUT', `the grammar cannot be used: ${problem}`);
    }
    this.#sound.add(key);
    if (this.#sound.size > 1024) this.#sound.delete(present([...this.#sound.keys()][0], 'the oldest'));
  }

  /** The one with the fewest texts; of several such, one that knows the grammar. */
  async #thread(key: string): Promise<MatcherThread> {
    if (this.#isClosed) throw new OperatingError('CLOSED', 'the engine is closed: open another one');
    const { threads: most = 2 } = this.#options;
    const alive = this.#threads.filter(({ isLost }) => !isLost);
    this.#threads.splice(0, this.#threads.length, ...alive);
    const idle = alive.find(({ texts, knows }) => texts === 0 && knows.has(key));
    if (idle) return idle;
    const least = alive.toSorted(
      (a, b) => a.texts - b.texts || Number(b.knows.has(key)) - Number(a.knows.has(key)),
    )[0];
    if (least && (least.texts === 0 || alive.length >= most)) return least;
    this.#vocabulary ??= vocabularyOf(this.#options);
    const thread = new MatcherThread(this.#vocabulary, this.#options.vocabSize, this.#mostMs);
    this.#threads.push(thread);
    return thread;
  }
}
