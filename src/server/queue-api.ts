// The API of a server without a model: what is posted is handed to the workers of a queue, and answered with what they answer.

import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import { isEndpoint, isStreamed, noEndpoint, refusal } from '../api/api.js';
import { ApiError, asApiError } from '../api/api-error.js';
import { nowSeconds } from '../api/ids.js';
import type { Answering, Asking, ListedModel, WholeReply } from '../api/reply.js';
import type { Turn } from '../engine/request.js';
import type { RequestQueue } from '../queue/requests.js';

/** As a worker gets it. */
export interface HandedRequest {
  readonly path: string;
  readonly body: unknown;
  readonly turn: Turn;
}

/** As a worker answers it. */
export type HandedReply = Omit<WholeReply, 'kind'>;

const REPLY = z.object({
  status: z.int(),
  body: z.looseObject({}),
  retryAfterSeconds: z.number().optional(),
});

export interface QueueApiOptions {
  readonly requests: Pick<RequestQueue<HandedRequest>, 'ask'>;
  /** What clients call the model that workers have. */
  readonly names: readonly string[];
  /** Tokens of the longest text, where that was said. */
  readonly contextTokens: number | undefined;
}

export class QueueApi implements Answering {
  readonly model: ListedModel;
  readonly #requests: QueueApiOptions['requests'];

  constructor({ requests, names, contextTokens }: QueueApiOptions) {
    this.model = { names, contextTokens, created: nowSeconds() };
    this.#requests = requests;
  }

  async answer(path: string, body: unknown, asking: Asking): Promise<WholeReply> {
    try {
      return await this.#handed(path, body, asking);
    } catch (error) {
      return refusal(asApiError(error));
    }
  }

  /** Rejects where the queue has failed: what a batch asks is asked again, and has no answer yet. */
  async answerWhole(path: string, body: unknown, asking: Asking): Promise<WholeReply> {
    try {
      return await this.#handed(path, body, asking);
    } catch (error) {
      if (error instanceof ApiError) return refusal(error);
      throw error;
    }
  }

  async #handed(path: string, body: unknown, { turn, signal, name }: Asking): Promise<WholeReply> {
    if (!isEndpoint(path)) throw noEndpoint(path);
    if (isStreamed(body)) throw streamed(name !== undefined);
    const isUrgent = turn.kind === 'interactive';
    const answer = await this.#requests.ask(
      { path, body, turn },
      {
        name: name === undefined ? `request-${randomUUID()}` : `batch-${name}`,
        signal,
        isUrgent,
        outlives: name !== undefined,
      },
    );
    const { status, body: said, retryAfterSeconds } = REPLY.parse(answer);
    return { kind: 'whole', status, body: said, retryAfterSeconds };
  }
}

function streamed(isBatch: boolean): ApiError {
  const message = isBatch
    ? 'stream is not for batches: leave it out'
    : 'this server hands requests to the workers of a queue, which answer whole: leave stream out';
  return new ApiError(message, { status: 400, type: 'invalid_request_error', param: 'stream' });
}
