// A batch's requests through the API, many at once: each is answered, and its line written, once.

import { setTimeout } from 'node:timers/promises';
import type { Executor } from '../../offload/index.js';
import type { Asking, WholeReply } from '../api/reply.js';
import { jsonBytes } from '../files/json-bytes.js';
import type { BatchInput } from './batch-input.js';
import type { BatchRequest } from './batch-line.js';
import type { BatchResults } from './batch-results.js';

/** Answers one request; never rejects for what is wrong with it. */
export type Answer = (path: string, body: unknown, asking: Asking) => Promise<WholeReply>;

export interface BatchWork {
  readonly input: BatchInput;
  readonly results: BatchResults;
  readonly answer: Answer;
  /** Whose batch it is: batches take turns by it. */
  readonly client: string;
  /** So many requests are on their way: enough that places which fall free find one waiting. */
  readonly atOnce: number;
  readonly signal: AbortSignal;
  readonly onProgress?: (() => void) | undefined;
}

/** So many times the places that there are: whoever ends is followed at once. */
const AHEAD = 2;

/** Requests that are to be on their way, as `atOnce`. */
export function requestsAtOnce({ batchCount, plan }: Pick<Executor, 'batchCount' | 'plan'>): number {
  return AHEAD * plan.sequences * batchCount;
}

/**
 * Resolves when every request has its line, and rejects with the signal's reason: what had not ended by then has none, and
 * is asked again by whoever goes on. Throws WRITE_FAILED and FILE_CHANGED.
 */
export async function runBatch(work: BatchWork): Promise<void> {
  const failed = new AbortController();
  const signal = AbortSignal.any([work.signal, failed.signal]);
  const open = openRequests(work);
  const worker = async () => {
    try {
      for (const index of open) {
        signal.throwIfAborted();
        await settle(index, work, signal);
        work.onProgress?.();
      }
    } catch (error) {
      failed.abort(error);
    }
  };
  await Promise.all(Array.from({ length: work.atOnce }, worker));
  signal.throwIfAborted();
}

/** One after the other, whoever asks. */
function* openRequests({ input, results }: BatchWork): Generator<number, void> {
  for (let index = 0; index < input.length; index++) if (!results.isDone(index)) yield index;
}

async function settle(index: number, work: BatchWork, signal: AbortSignal): Promise<void> {
  const { input, results } = work;
  const request = await input.at(index);
  if (request.kind === 'bad') {
    results.addBad(index, request, input.lineNumber(index));
    // Many bad lines must not hold up everybody else.
    await setTimeout(0);
    return;
  }
  const reply = await answered(request, index, work, signal);
  results.add(index, request.customId, reply, await jsonBytes(reply.body));
}

/** How long a server that is too busy is left alone where it does not say. */
const RETRY_SECONDS = 1;

/** The first reply that says something of the request, and not of the server's state. */
async function answered(
  { url, body }: BatchRequest,
  index: number,
  work: BatchWork,
  signal: AbortSignal,
): Promise<WholeReply> {
  for (;;) {
    const name = work.results.nameOf(index);
    const asking = { turn: { client: work.client, kind: 'batch' }, signal, name } as const;
    const reply = await work.answer(url, body, asking);
    // What was cut off is no answer.
    signal.throwIfAborted();
    if (reply.status !== 429 && reply.status !== 503) return reply;
    const seconds = reply.retryAfterSeconds ?? RETRY_SECONDS;
    await setTimeout(seconds * 1e3, undefined, { signal });
  }
}
