// The API without HTTP: a body for a path becomes a reply, whoever asks.

import { ApiError, asApiError } from './api-error.js';
import { CHAT } from './chat.js';
import { COMPLETIONS } from './completions.js';
import type { Endpoint } from './endpoint.js';
import type { Answering, Asking, Reply, WholeReply } from './reply.js';
import { RESPONSES } from './responses.js';
import type { ServedModel } from './served-model.js';
import { DETOKENIZE, TOKENIZE } from './tokens.js';

/** What is posted, by path. */
export const ENDPOINTS = {
  '/v1/completions': COMPLETIONS,
  '/v1/chat/completions': CHAT,
  '/v1/responses': RESPONSES,
  '/tokenize': TOKENIZE,
  '/detokenize': DETOKENIZE,
} as const satisfies Readonly<Record<string, Endpoint>>;

export type EndpointPath = keyof typeof ENDPOINTS;

export function isEndpoint(path: string): path is EndpointPath {
  return Object.hasOwn(ENDPOINTS, path);
}

export class Api implements Answering {
  readonly model: ServedModel;
  readonly #onFault: (error: ApiError) => void;

  /** @param onFault told of what is nobody's request's fault */
  constructor(model: ServedModel, onFault: (error: ApiError) => void = () => undefined) {
    this.model = model;
    this.#onFault = onFault;
  }

  async answer(path: string, body: unknown, asking: Asking): Promise<Reply> {
    try {
      if (!isEndpoint(path)) throw noEndpoint(path);
      const reply = await ENDPOINTS[path].answer(body, this.model, asking);
      return reply.kind === 'whole' ? reply : { ...reply, events: this.#guarded(reply.events) };
    } catch (error) {
      return refusal(this.#told(error));
    }
  }

  async answerWhole(path: string, body: unknown, asking: Asking): Promise<WholeReply> {
    if (isStreamed(body)) {
      const details = { status: 400, type: 'invalid_request_error', param: 'stream' } as const;
      return refusal(new ApiError('stream is not for batches: leave it out', details));
    }
    const reply = await this.answer(path, body, asking);
    if (reply.kind === 'whole') return reply;
    throw new Error('a request without stream is answered at once');
  }

  async *#guarded<T>(events: AsyncIterable<T>): AsyncGenerator<T, void> {
    try {
      yield* events;
    } catch (error) {
      throw this.#told(error);
    }
  }

  #told(error: unknown): ApiError {
    const told = asApiError(error);
    if (told.status >= 500) this.#onFault(told);
    return told;
  }
}

export function refusal(error: ApiError): WholeReply {
  const { status, body } = error;
  return { kind: 'whole', status, body, retryAfterSeconds: error.details.retryAfterSeconds };
}

export function noEndpoint(path: string): ApiError {
  if (path === '/v1/embeddings') {
    return new ApiError('models here make texts and no embeddings: ask a server with an embedding model', {
      status: 400,
      type: 'invalid_request_error',
      code: 'unsupported_endpoint',
    });
  }
  return new ApiError(`there is no such endpoint; there are ${Object.keys(ENDPOINTS).join(', ')}`, {
    status: 404,
    type: 'invalid_request_error',
    code: 'unknown_url',
  });
}

export function isStreamed(body: unknown): boolean {
  return typeof body === 'object' && body !== null && 'stream' in body && body.stream === true;
}
