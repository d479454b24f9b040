// The answers to requests that a server has handed out: each is asked of the model that this worker has.

import { setTimeout } from 'node:timers/promises';
import { z } from 'zod';
import { OperatingError } from '../../../offload/index.js';
import type { Answering } from '../../api/reply.js';
import type { Engine } from '../../engine/engine.js';
import type { ChunkResult } from '../../queue/chunk.js';
import type { HeldChunk } from '../../queue/leases.js';
import type { HandedReply, HandedRequest } from '../../server/queue-api.js';
import type { PartAtWork, PartMaker } from './part-maker.js';

const USED = z.object({
  body: z.object({
    usage: z.object({ completion_tokens: z.number().optional(), output_tokens: z.number().optional() }),
  }),
});

/** So long an engine may take to say that it has failed, and not the request. */
const FAILURE_MS = 100;

export interface Answerer {
  readonly api: Pick<Answering, 'answerWhole'>;
  readonly engine: Pick<Engine, 'whenIdle'>;
  readonly signal: AbortSignal;
}

export class RequestMaker implements PartMaker<HandedRequest> {
  readonly samples = 1;
  readonly #answerer: Answerer;

  constructor(answerer: Answerer) {
    this.#answerer = answerer;
  }

  async begin(chunks: readonly HeldChunk<HandedRequest>[], onText: () => void): Promise<PartAtWork[]> {
    return chunks.map((chunk) => new AnswersAtWork(this.#answerer, chunk, onText));
  }

  newTokensOf(line: Readonly<Record<string, unknown>>): number {
    const { completion_tokens, output_tokens } = USED.safeParse(line).data?.body.usage ?? {};
    return completion_tokens ?? output_tokens ?? 0;
  }
}

class AnswersAtWork implements PartAtWork {
  readonly #answerer: Answerer;
  readonly #lost = new AbortController();
  readonly #onText: () => void;
  open: number;
  readonly result: Promise<ChunkResult>;

  constructor(answerer: Answerer, { prompts }: HeldChunk<HandedRequest>, onText: () => void) {
    this.#answerer = answerer;
    this.#onText = onText;
    this.open = prompts.length;
    this.result = this.#answerAll(prompts.map(([, request]) => request));
  }

  cancel(): void {
    this.#lost.abort(new OperatingError('CLOSED', 'another worker has the request'));
  }

  async #answerAll(requests: readonly HandedRequest[]): Promise<ChunkResult> {
    return { lines: await Promise.all(requests.map((request) => this.#answer(request))) };
  }

  async #answer({ path, body, turn }: HandedRequest): Promise<Record<string, unknown>> {
    const { api, engine, signal } = this.#answerer;
    const asking = { turn, signal: AbortSignal.any([signal, this.#lost.signal]) };
    const { kind: _, ...reply } = await api.answerWhole(path, body, asking);
    // A worker that ends, or whose engine has failed, has no answer to give: another one takes the request.
    signal.throwIfAborted();
    if (reply.status >= 500) await Promise.race([engine.whenIdle(), setTimeout(FAILURE_MS)]);
    this.open--;
    this.#onText();
    return reply satisfies HandedReply;
  }
}
