// One request as whoever submitted it sees it: its tokens as they come, what became of it, and a way to have it end.

import { present } from '../../offload/index.js';
import type { GenerationResult, LikelyToken, RequestListener, TokenLikelihood } from './request.js';
import type { Sequence } from './sequence.js';

export interface NewToken {
  readonly token: number;
  /** Where it was asked for: the logarithm of its probability. */
  readonly logProb?: number;
  /** Where they were asked for: the likeliest tokens in its place. */
  readonly top?: readonly LikelyToken[];
}

export class Submission implements RequestListener {
  /**
   * What became of it, with `finishReason` `error` and its `problem` where this request alone cannot be computed. Rejects
   * where the engine as a whole cannot go on, and with what the request's own `stopsAfter` has thrown.
   */
  readonly result: Promise<GenerationResult>;
  readonly #onCancel: (sequence: Sequence) => void;
  readonly #known: NewToken[] = [];
  #prompt: readonly TokenLikelihood[] | undefined;
  #sequence: Sequence | undefined;
  #settle: { resolve(result: GenerationResult): void; reject(error: unknown): void } | undefined;
  /** Something has happened since somebody began to wait. */
  #wake: (() => void) | undefined;
  #ended: { readonly error?: unknown } | undefined;

  constructor(onCancel: (sequence: Sequence) => void) {
    this.#onCancel = onCancel;
    this.result = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whoever only reads tokens is told by them.
    this.result.catch(() => undefined);
  }

  /** It stands for this sequence. */
  follow(sequence: Sequence): void {
    this.#sequence = sequence;
  }

  /** No further token comes; in the middle of a pass, that pass's is dropped. Nothing happens where it has ended. */
  cancel(): void {
    this.#onCancel(present(this.#sequence, 'sequence'));
  }

  /**
   * Its new tokens from the first on, each as soon as it is known; they are kept, so that it may be read again. Throws what
   * the request ended with, if that was an error.
   */
  get tokens(): AsyncIterable<NewToken> {
    return { [Symbol.asyncIterator]: () => this.#read() };
  }

  /**
   * How likely the prompt's tokens are, from the second on, where that was asked for; undefined where the request was cancelled
   * before. Throws what it ended with, if that was an error.
   */
  async promptLikelihoods(): Promise<readonly TokenLikelihood[] | undefined> {
    while (!this.#prompt && !this.#ended) await this.#told();
    if (!this.#prompt && this.#ended && 'error' in this.#ended) throw this.#ended.error;
    return this.#prompt;
  }

  async *#read(): AsyncGenerator<NewToken, void> {
    for (let next = 0; ; ) {
      const token = this.#known[next];
      if (token) {
        next++;
        yield token;
      } else if (this.#ended) {
        if ('error' in this.#ended) throw this.#ended.error;
        return;
      } else await this.#told();
    }
  }

  #told(): Promise<void> {
    return new Promise((resolve) => {
      const before = this.#wake;
      this.#wake = () => {
        before?.();
        resolve();
      };
    });
  }

  onPrompt(likelihoods: readonly TokenLikelihood[]): void {
    this.#prompt = likelihoods;
    this.#tell();
  }

  onToken(token: number, likelihood: TokenLikelihood | undefined): void {
    this.#known.push({ token, ...likelihood });
    this.#tell();
  }

  onFinished(result: GenerationResult): void {
    this.#ended = result.problem ? { error: result.problem } : {};
    this.#settle?.resolve(result);
    this.#tell();
  }

  onFailed(error: unknown): void {
    this.#ended = { error };
    this.#settle?.reject(error);
    this.#tell();
  }

  #tell(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }
}
