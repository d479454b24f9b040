// What comes of a request, whoever asked: one body, or events as they happen.

import type { Turn } from '../engine/request.js';

export interface WholeReply {
  readonly kind: 'whole';
  readonly status: number;
  readonly body: object;
  /** Where it is a refusal for a while. */
  readonly retryAfterSeconds?: number | undefined;
}

export interface StreamReply {
  readonly kind: 'stream';
  /** The first is asked for when the request is known to be a good one. Whoever leaves early ends the texts. */
  readonly events: AsyncIterable<ServerEvent>;
}

export type Reply = WholeReply | StreamReply;

/** As server-sent events have it. */
export interface ServerEvent {
  readonly event?: string;
  /** An object becomes JSON. */
  readonly data: object | string;
}

/** Who asks, and until when. */
export interface Asking {
  /** Whose turn it is, and before whom. */
  readonly turn: Turn;
  /** Ends whatever is being made. */
  readonly signal: AbortSignal;
  /** Told how many tokens the request may come to, before it is begun; what it throws refuses it. */
  readonly claimTokens?: ((tokens: number) => void) | undefined;
}

/** Told what becomes of texts, whoever asked for them. */
export interface TextObserver {
  firstToken(seconds: number): void;
  newToken(): void;
  ended(promptTokens: number, newTokens: number): void;
}

/** Ends a stream of completions. */
export const DONE: ServerEvent = { data: '[DONE]' };

export function whole(body: object): WholeReply {
  return { kind: 'whole', status: 200, body };
}
