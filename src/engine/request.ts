// What an engine is asked for, and what it answers: a continuation of a prompt, or how likely given tokens are.

import type { OperatingError, TokenMask } from '../../offload/index.js';
import type { SamplingSettings } from './sampler.js';

/** Whose request it is, and before whose it begins. */
export interface Turn {
  /** Requests of different clients take turns, by what each has been given already. */
  readonly client: string;
  /** `interactive` ones begin before those of a `batch`, which keep a share of the places. */
  readonly kind: 'interactive' | 'batch';
}

export interface GenerationRequest {
  /** Identifies the prompt in results and sentences, and in what is random unless `randomIndex` does. */
  readonly index: number;
  readonly randomIndex?: number;
  /** Which of a prompt's continuations this is; 0 where there is one. */
  readonly sample?: number;
  /** At least one. */
  readonly promptTokens: Int32Array;
  /** Absent: the likeliest token at every step. Penalties and biases must have been planned for (`history`, `addedTokens`). */
  readonly sampling?: SamplingSettings;
  /** At least one, or none where `promptLogProbs` is all that is wanted; default: that of the options. */
  readonly maxNewTokens?: number;
  /** It ends after one of these, which is not part of its result; default: those of the options. */
  readonly stopTokens?: ReadonlySet<number>;
  /** Told of each new token: true ends it, and the token stays part of its result. */
  readonly stopsAfter?: (token: number) => boolean;
  /** How likely each new token was is wanted. */
  readonly logProbs?: boolean;
  /** And which so many tokens were likeliest in its place; as many must have been planned for. Default 0. */
  readonly topLogProbs?: number;
  /** How likely the prompt's own tokens are is wanted as well, each after those before it; goes with `logProbs`. */
  readonly promptLogProbs?: boolean;
  /** Default: an interactive one of nobody in particular. */
  readonly turn?: Turn;
  /** Which tokens it may be made of; of an engine that was planned for it (`masks`), and of no other request. */
  readonly constraint?: TokenConstraint;
}

/** What a text has to obey, token by token. The engine knows no rules: it asks, and draws from what is allowed. */
export interface TokenConstraint {
  /**
   * Which tokens may follow these new ones, its stop tokens among them where the text may end; undefined for all. Asked for
   * while the pass that draws the token runs, and again where that pass has to be run again. What it resolves to may change
   * with the next call. A rejection ends the request with that error, and no other.
   */
  after(newTokens: readonly number[]): Promise<TokenMask>;
  /** Once, when the request has ended in any way. */
  close(): void;
}

/** Tokens whose likelihoods are wanted, each after all that come before it; of an engine that was planned for output `nll`. */
export interface ScoringRequest {
  readonly index: number;
  /** At least two; the first is only given. */
  readonly scoredTokens: Int32Array;
  /** Where the first one lies in the text that it is part of, for sentences; default 0. */
  readonly firstPosition?: number;
}

export type EngineRequest = GenerationRequest | ScoringRequest;

/** A token that might have been, and the logarithm of its probability by the model itself. */
export interface LikelyToken {
  readonly token: number;
  readonly logProb: number;
}

/** What is known of a new token beside itself, where it was asked for. */
export interface TokenLikelihood {
  readonly logProb: number;
  /** In its place, the likeliest first. */
  readonly top?: readonly LikelyToken[];
}

/** `error`: no further token can be told, and `problem` says why. `cancelled`: whoever asked wants no more. */
export type FinishReason = 'stop' | 'length' | 'cancelled' | 'error';

export interface GenerationResult {
  readonly index: number;
  readonly sample: number;
  /** With the one that completed a stop string, without a stop token. */
  readonly tokens: readonly number[];
  /**
   * Where they were asked for, of each token: the logarithm of its probability by the model itself, before temperature
   * and penalties. For scored tokens: of all but the first.
   */
  readonly logProbs?: readonly number[];
  readonly finishReason: FinishReason;
  readonly problem?: OperatingError;
}

/**
 * Whoever asked is told of what becomes of it. Functions return at once. Where `onToken` or the request's `stopsAfter`
 * throws, the request ends with that alone, or all do if it has no `onFailed`.
 */
export interface RequestListener {
  /** Once, before the first new token, where it was asked for: how likely the prompt's tokens are, from the second on. */
  onPrompt?(likelihoods: readonly TokenLikelihood[]): void;
  /** Each new token as it is known. */
  onToken?(token: number, likelihood: TokenLikelihood | undefined): void;
  /** Once, unless the whole engine fails. */
  onFinished?(result: GenerationResult): void;
  /** Once, instead: nothing can be computed any more, or a function of its own has thrown. */
  onFailed?(error: unknown): void;
}

/** Requests that are made when there is room for them. */
export interface RequestQueue {
  readonly length: number;
  /** The next one, `length` times. */
  next(): Promise<QueuedRequest>;
}

export interface QueuedRequest {
  readonly request: EngineRequest;
  readonly listener: RequestListener;
}
