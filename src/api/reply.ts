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
  /** What whoever asks calls the request, the same whenever it is asked again; absent: it is asked once. */
  readonly name?: string | undefined;
  /** Told how many tokens the request may come to, before it is begun; what it throws refuses it. */
  readonly claimTokens?: ((tokens: number) => void) | undefined;
}

/** The names that one model goes by. */
export interface ListedModel {
  readonly names: readonly string[];
  /** Seconds since 1970. */
  readonly created: number;
  /** Tokens of the longest text, where that is known. */
  readonly contextTokens: number | undefined;
}

/** Whoever answers what clients post: a model of this process, or others that it is handed to. */
export interface Answering {
  /** Never rejects: what is wrong is the reply. A stream's events may throw, always an ApiError. */
  answer(path: string, body: unknown, asking: Asking): Promise<Reply>;
  /** The same for whoever cannot take events as they come, such as a batch. */
  answerWhole(path: string, body: unknown, asking: Asking): Promise<WholeReply>;
  /** Whose texts answers are. */
  readonly model: ListedModel;
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
