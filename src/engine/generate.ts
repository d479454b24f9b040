// Generation as a job: all requests are there from the start, or come from a queue, and the job ends with the last of them.

import { type Executor, present } from '../../offload/index.js';
import type { PassProgress } from './pass-progress.js';
import type { GenerationRequest, GenerationResult, RequestQueue } from './request.js';
import { Scheduler } from './scheduler.js';

export interface GenerationOptions {
  /** Sequences that each device works on at once. */
  readonly batchSize: number;
  /** For requests that do not say it. */
  readonly maxNewTokens: number;
  /** For requests that do not name theirs: a sequence ends after one of these, which is not part of its result. */
  readonly stopTokens: ReadonlySet<number>;
  /** Made for every request that has no such function of its own. */
  readonly stopsAfter?: (request: GenerationRequest) => (token: number) => boolean;
  /** See SchedulerOptions. */
  readonly sharesPages?: boolean;
  readonly signal?: AbortSignal;
  /** Each new token as it is known. */
  readonly onToken?: (index: number, token: number, sample: number) => void;
  readonly onFinished?: (result: GenerationResult) => void;
  /** After each pass. */
  readonly onPass?: (pass: PassProgress) => void;
}

/** Requests that are made when there is room for them. */
export interface GenerationQueue {
  readonly length: number;
  /** The next one, `length` times. */
  next(): Promise<GenerationRequest>;
}

/**
 * Submits all and waits. Results in the order of the requests. Rejects with the signal's reason when aborted between
 * passes, and with what made all of them fail.
 */
export async function generate(
  executor: Executor,
  requests: readonly GenerationRequest[],
  options: GenerationOptions,
): Promise<GenerationResult[]> {
  const results: GenerationResult[] = [];
  let given = 0;
  const next = async () => {
    const place = given++;
    const onResult = (result: GenerationResult) => {
      results[place] = result;
    };
    return queued(present(requests[place], 'request'), options, onResult);
  };
  await runQueue(executor, { length: requests.length, next }, options);
  return results;
}

/** The same for requests without number: what they yield is told of by the options' functions, and not kept. */
export function generateEach(
  executor: Executor,
  queue: GenerationQueue,
  options: GenerationOptions,
): Promise<void> {
  const next = async () => queued(await queue.next(), options, () => undefined);
  return runQueue(executor, { length: queue.length, next }, options);
}

async function runQueue(executor: Executor, queue: RequestQueue, options: GenerationOptions): Promise<void> {
  if (queue.length === 0) return;
  await new Scheduler(executor, { ...options, queue }).whenIdle();
}

function queued(
  request: GenerationRequest,
  { stopsAfter, onToken, onFinished }: GenerationOptions,
  onResult: (result: GenerationResult) => void,
): Awaited<ReturnType<RequestQueue['next']>> {
  const { index, sample = 0 } = request;
  const stops = request.stopsAfter ?? stopsAfter?.(request);
  return {
    request: stops ? { ...request, stopsAfter: stops } : request,
    listener: {
      ...(onToken ? { onToken: (token: number) => onToken(index, token, sample) } : {}),
      onFinished: (result) => {
        onResult(result);
        onFinished?.(result);
      },
    },
  };
}
