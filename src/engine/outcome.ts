// What a pass has come to, of which whoever asked is told later: while the next one computes.

import type { Sequence } from './sequence.js';

export interface Outcome {
  /** They have one token more. */
  readonly grown: readonly Sequence[];
  /** They have left. */
  readonly ended: readonly Sequence[];
  readonly tell: (() => void) | undefined;
}

export interface UntoldOptions {
  /** Throws where files have changed: tokens of these are told to nobody. */
  readonly checkFiles: () => void;
  readonly tellEnded: (sequence: Sequence) => void;
}

/** One outcome, until it is told. */
export class Untold {
  readonly #options: UntoldOptions;
  #outcome: Outcome | undefined;

  constructor(options: UntoldOptions) {
    this.#options = options;
  }

  get isSome(): boolean {
    return this.#outcome !== undefined;
  }

  keep(outcome: Outcome): void {
    this.#outcome = outcome;
  }

  tell(): void {
    if (!this.#outcome) return;
    const { grown, ended, tell } = this.#outcome;
    this.#outcome = undefined;
    try {
      this.#options.checkFiles();
    } catch (error) {
      for (const sequence of ended) sequence.failed(error);
      throw error;
    }
    try {
      for (const sequence of grown) sequence.tellTokens();
    } finally {
      for (const sequence of ended) this.#options.tellEnded(sequence);
    }
    tell?.();
  }
}
