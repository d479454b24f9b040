// A thread that follows texts: it knows the vocabulary, and takes the steps of all its texts together.

import { OperatingError } from '../../offload/index.js';
import type { Grammar } from './grammar.js';
import type { Answer, Command, Step, Vocabulary } from './messages.js';
import { GrammarThread, ThreadLost } from './thread.js';

interface Asked {
  readonly step: Step;
  readonly resolve: (problem: string | undefined) => void;
  readonly reject: (error: unknown) => void;
}

const TOKENS_PER_WORD = 32;

export class MatcherThread {
  readonly #thread: GrammarThread;
  readonly #vocabulary: Promise<Vocabulary>;
  readonly #vocabSize: number;
  #isReady: Promise<unknown> | undefined;
  /** Keys of grammars that it has compiled, or is about to. */
  readonly knows = new Set<string>();
  texts = 0;
  #next = 1;
  #asked: Asked[] = [];
  #closed: number[] = [];

  constructor(vocabulary: Promise<Vocabulary>, vocabSize: number, mostMs: number) {
    this.#thread = new GrammarThread(mostMs);
    this.#vocabulary = vocabulary;
    this.#vocabSize = vocabSize;
  }

  get isLost(): boolean {
    return this.#thread.isLost;
  }

  end(): Promise<number> {
    return this.#thread.end();
  }

  /** Rejects with BAD_INPUT. */
  async compile(key: string, grammar: Grammar): Promise<void> {
    this.knows.add(key);
    await this.#ready();
    const { problem } = await this.#run({ kind: 'compile', key, grammar });
    if (problem !== undefined) {
      this.knows.delete(key);
      throw new OperatingError('BAD_INPUT', `the grammar cannot be used: ${problem}`);
    }
  }

  /** The number of a text, and where its masks will be. */
  begin(): { readonly matcher: number; readonly mask: SharedArrayBuffer } {
    this.texts++;
    const words = Math.ceil(this.#vocabSize / TOKENS_PER_WORD);
    return { matcher: this.#next++, mask: new SharedArrayBuffer(words * Int32Array.BYTES_PER_ELEMENT) };
  }

  finish(matcher: number): void {
    this.texts--;
    if (this.isLost) return;
    this.#closed.push(matcher);
    if (this.#closed.length === 1) setImmediate(() => this.#close());
  }

  /** Resolves when the mask is there, with why there is none; rejects with ThreadLost. */
  async step(step: Step): Promise<string | undefined> {
    await this.#ready();
    return new Promise((resolve, reject) => {
      this.#asked.push({ step, resolve, reject });
      // One message for all texts of a pass.
      if (this.#asked.length === 1) queueMicrotask(() => void this.#ask());
    });
  }

  #close(): void {
    const matchers = this.#closed;
    this.#closed = [];
    this.#thread.run({ kind: 'close', matchers }).catch(() => undefined);
  }

  async #ask(): Promise<void> {
    const asked = this.#asked;
    this.#asked = [];
    try {
      const { problem, stuck = [] } = await this.#thread.run({
        kind: 'step',
        steps: asked.map(({ step }) => step),
      });
      const problems = new Map(stuck.map((one) => [one.matcher, one.problem]));
      for (const { step, resolve } of asked) resolve(problem ?? problems.get(step.matcher));
    } catch (error) {
      for (const { reject } of asked) reject(error);
    }
  }

  /** A command whose loss is its own fault, as it is for a grammar alone. */
  async #run(command: Command): Promise<Pick<Answer, 'problem'>> {
    const id = this.#thread.nextCommand;
    return this.#thread.run(command).catch((error: unknown) => {
      if (error instanceof ThreadLost && (error.command === id || !error.hung))
        return { problem: error.message };
      throw error;
    });
  }

  /** Made once: a vocabulary is long. */
  #ready(): Promise<unknown> {
    this.#isReady ??= this.#vocabulary.then(async (vocabulary) => {
      const { problem } = await this.#thread.run({ kind: 'vocabulary', vocabulary });
      if (problem !== undefined)
        throw new OperatingError(
          'UNSUPPORTED',
          `grammars cannot use this tokenizer's vocabulary: ${problem}`,
        );
    });
    return this.#isReady;
  }
}
