// A text on its way: tokens from the engine become pieces of text, which anybody may wait for, and a result.

import type { TokenLikelihood } from '../engine/request.js';
import { inOwnWords } from './own-words.js';
import { listen } from './signals.js';
import type { Generation, GenerationResult, LikelyToken, Piece, Signal } from './types.js';

/** What a text is made of, once its prompt is known. */
export interface TokenSource {
  readonly tokens: AsyncIterable<{
    readonly token: number;
    readonly logProb?: number;
    readonly top?: readonly LikelyToken[];
  }>;
  readonly finished: Promise<GenerationResult['finishReason']>;
  /** Where they were asked for; see Submission. */
  promptLikelihoods?(): Promise<readonly TokenLikelihood[] | undefined>;
  cancel(): void;
  /** The text that is certain with this token; undefined where no token says anything. */
  push(token: number): string | undefined;
  /** What was held back. */
  end(): string;
  readonly promptTokens: number;
  /** That the tokens are drawn with. */
  readonly seed: number | undefined;
}

export interface GenerationSettings {
  readonly logProbs: boolean;
  readonly topLogProbs?: number;
  readonly signal: Signal | undefined;
}

interface Made {
  text: string;
  readonly tokens: number[];
  readonly logProbs: number[];
  readonly topLogProbs: (readonly LikelyToken[])[];
}

function nothingMade(): Made {
  return { text: '', tokens: [], logProbs: [], topLogProbs: [] };
}

const OVER = { done: true, value: undefined } as const;

export class TextGeneration implements Generation {
  readonly result: Promise<GenerationResult>;
  readonly #settings: GenerationSettings;
  readonly #pieces: Piece[] = [];
  #source: TokenSource | undefined;
  readonly #beginning = new AbortController();
  #isCancelled = false;
  /** Undefined while pieces may come. */
  #end: { readonly error?: unknown } | undefined;
  #resolve: (result: GenerationResult) => void = () => undefined;
  #reject: (error: unknown) => void = () => undefined;
  #forget: () => void = () => undefined;
  /** Those who wait for what comes next. */
  #waiting: (() => void)[] = [];

  /** @param begin once, until the signal; what it rejects with ends the text */
  constructor(settings: GenerationSettings, begin: (signal: AbortSignal) => Promise<TokenSource>) {
    this.#settings = settings;
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever iterates is told there, and whoever cancels may not want to know.
    this.result.catch(() => undefined);
    this.#forget = listen(settings.signal, (reason) => this.fail(reason));
    if (!this.#end) void this.#run(begin).catch((error: unknown) => this.fail(inOwnWords(error)));
  }

  /** A function by itself, since programs take it out of the text. */
  readonly cancel = (): void => {
    if (this.#isCancelled || this.#end) return;
    this.#isCancelled = true;
    this.#beginning.abort();
    if (this.#source) this.#source.cancel();
    else this.#finish(nothingMade(), { finishReason: 'cancelled', promptTokens: 0 });
  };

  /** Ends it with an error, unless it has ended. */
  fail(error: unknown): void {
    if (this.#end) return;
    this.#settle({ error });
    this.#reject(error);
    this.#beginning.abort();
    this.#source?.cancel();
  }

  /** No generator, which could not be left while it waits for the next piece. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Piece, void> {
    let [next, isOver] = [0, false];
    return {
      [Symbol.asyncIterator]() {
        return this;
      },
      next: async () => {
        for (const index = next++; !isOver; ) {
          const piece = this.#pieces[index];
          if (piece) return { done: false, value: piece };
          if (!this.#end) await new Promise<void>((resolve) => this.#waiting.push(resolve));
          else isOver = true;
          if (isOver && this.#end && 'error' in this.#end) throw this.#end.error;
        }
        return OVER;
      },
      return: async () => {
        isOver = true;
        this.cancel();
        this.#wake();
        return OVER;
      },
    };
  }

  async #run(begin: (signal: AbortSignal) => Promise<TokenSource>): Promise<void> {
    const source = await begin(this.#beginning.signal);
    this.#source = source;
    // Awaited when all tokens are there, which may be never.
    source.finished.catch(() => undefined);
    if (this.#end) source.cancel();
    let piece = nothingMade();
    const all = nothingMade();
    const give = (text: string) => {
      if (this.#end) return;
      this.#pieces.push(this.#asked({ ...piece, text }));
      all.text += text;
      for (const token of piece.tokens) all.tokens.push(token);
      for (const logProb of piece.logProbs) all.logProbs.push(logProb);
      for (const top of piece.topLogProbs) all.topLogProbs.push(top);
      piece = nothingMade();
      this.#wake();
    };
    for await (const { token, logProb = Number.NaN, top = [] } of source.tokens) {
      piece.tokens.push(token);
      piece.logProbs.push(logProb);
      piece.topLogProbs.push(top);
      const text = source.push(token);
      if (text !== '') give(text ?? '');
    }
    const finishReason = await source.finished;
    const rest = source.end();
    if (rest !== '' || piece.tokens.length > 0) give(rest);
    const { promptTokens, seed } = source;
    this.#finish(all, { finishReason, promptTokens, ...(seed === undefined ? {} : { seed }) });
  }

  #finish(all: Made, about: Omit<GenerationResult, keyof Made>): void {
    if (this.#end) return;
    this.#settle({});
    this.#resolve({ ...this.#asked(all), ...about });
  }

  /** Without what nobody asked for. */
  #asked({ text, tokens, logProbs, topLogProbs }: Made): Piece {
    const { logProbs: asksForAny, topLogProbs: asksForTop = 0 } = this.#settings;
    return {
      text,
      tokens,
      ...(asksForAny ? { logProbs } : {}),
      ...(asksForTop > 0 ? { topLogProbs } : {}),
    };
  }

  #settle(end: { readonly error?: unknown }): void {
    this.#end = end;
    this.#forget();
    this.#wake();
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
