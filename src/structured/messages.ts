// What the threads of grammars are told, and what they say.

import type { Grammar } from './grammar.js';

/** A vocabulary as bytes one after the other: where each token's end; special tokens have none. */
export interface Vocabulary {
  readonly bytes: Uint8Array;
  readonly ends: Uint32Array;
  readonly stopTokens: readonly number[];
}

/** A text on its way. */
export interface Step {
  readonly matcher: number;
  /** With the first step of a matcher in this thread: what it obeys, and where its masks go. */
  readonly open?: { readonly key: string; readonly grammar: Grammar; readonly mask: SharedArrayBuffer };
  /** What the text has got since the last step. */
  readonly tokens: readonly number[];
}

export type Command =
  | { readonly kind: 'vocabulary'; readonly vocabulary: Vocabulary }
  /** Whether it is a grammar at all; needs no vocabulary. */
  | { readonly kind: 'check'; readonly grammar: Grammar }
  | { readonly kind: 'compile'; readonly key: string; readonly grammar: Grammar }
  | { readonly kind: 'step'; readonly steps: readonly Step[] }
  | { readonly kind: 'close'; readonly matchers: readonly number[] };

export interface Numbered {
  readonly id: number;
  readonly command: Command;
}

export interface Answer {
  readonly id: number;
  /** Why it could not be done. */
  readonly problem?: string | undefined;
  /** By matcher, for steps: why its text cannot go on. */
  readonly stuck?: readonly { readonly matcher: number; readonly problem: string }[];
}

/** Words of what a thread says while it works: the number of the command, and the matcher of its step. */
export const PROGRESS = { command: 0, matcher: 1, words: 2 } as const;
