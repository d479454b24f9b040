// What a text's own settings add to the logits of single tokens: biases, and penalties of those that it has already.

import type { AddedToTokens } from '../../offload/index.js';

/** Biases that one text may have: passes have room for them. */
export const MOST_BIASES = 1024;

export interface LogitChanges {
  /** Taken once from the logit of each token that the text has already; default 0. */
  readonly presencePenalty?: number;
  /** Taken from it as often as the text has the token; default 0. */
  readonly frequencyPenalty?: number;
  /** Added to the logits of single tokens. */
  readonly biases?: ReadonlyMap<number, number>;
}

/** Whether there is anything to add. */
export function addsToLogits({ presencePenalty = 0, frequencyPenalty = 0, biases }: LogitChanges): boolean {
  return presencePenalty !== 0 || frequencyPenalty !== 0 || (biases !== undefined && biases.size > 0);
}

/** Follows one text. */
export class AddedLogits {
  readonly #settings: LogitChanges;
  readonly #values: Map<number, number>;
  readonly #seen = new Set<number>();

  constructor(settings: LogitChanges) {
    this.#settings = settings;
    this.#values = new Map(settings.biases);
  }

  /** The text has become longer by it. */
  note(token: number): void {
    const { presencePenalty = 0, frequencyPenalty = 0 } = this.#settings;
    if (presencePenalty === 0 && frequencyPenalty === 0) return;
    const isNew = !this.#seen.has(token);
    this.#seen.add(token);
    const before = this.#values.get(token) ?? 0;
    this.#values.set(token, before - frequencyPenalty - (isNew ? presencePenalty : 0));
  }

  /** As the next token is drawn with. */
  row(): AddedToTokens {
    return {
      tokens: Int32Array.from(this.#values.keys()),
      values: Float32Array.from(this.#values.values()),
    };
  }
}
