// Generation: passes through all layers, in which every device takes the next prompt as soon as one of its own has ended.

import { type Executor, type OperatingError, present } from '../../offload/index.js';
import { PromptStream, type Sequence, type StreamPass } from './prompt-batch.js';
import { requestProblem } from './request-problem.js';
import type { SamplingSettings } from './sampler.js';

export interface GenerationRequest {
  /** Identifies the prompt in results, and in what is random unless `randomIndex` does. */
  readonly index: number;
  readonly randomIndex?: number;
  /** Which of a prompt's continuations this is; 0 where there is one. */
  readonly sample?: number;
  /** At least one. */
  readonly promptTokens: Int32Array;
  /** Absent: the likeliest token at every step. A repetition penalty must have been planned for (`history`). */
  readonly sampling?: SamplingSettings;
  /** Default: that of the options; no more than was planned for. */
  readonly maxNewTokens?: number;
  /** Default: those of the options. */
  readonly stopTokens?: ReadonlySet<number>;
}

/** Requests that are made when there is room for them. */
export interface RequestQueue {
  readonly length: number;
  /** The next one, `length` times. */
  next(): Promise<GenerationRequest>;
}

export interface GenerationResult {
  readonly index: number;
  readonly sample: number;
  /** With the one that completed a stop string, without a stop token. */
  readonly tokens: readonly number[];
  /** `error`: no further token can be told, and `problem` says why. */
  readonly finishReason: 'stop' | 'length' | 'error';
  readonly problem?: OperatingError;
}

export interface GenerationOptions {
  /** Sequences that each device works on at once. */
  readonly batchSize: number;
  readonly maxNewTokens: number;
  /** A sequence ends after one of these, which is not part of its result; empty to ignore them. */
  readonly stopTokens: ReadonlySet<number>;
  /** Made for every sequence and told of its tokens: true ends it, and the token stays part of its result. */
  readonly stopsAfter?: (request: GenerationRequest) => (token: number) => boolean;
  readonly signal?: AbortSignal;
  /** Each new token as it is known. */
  readonly onToken?: (index: number, token: number, sample: number) => void;
  readonly onFinished?: (result: GenerationResult) => void;
  /** After each pass. */
  readonly onPass?: (pass: PassProgress) => void;
}

export interface PassProgress {
  /** `mixed`: prompts of newcomers beside new tokens of others. */
  readonly phase: 'prefill' | 'decode' | 'mixed';
  readonly tokens: number;
  /** How often each layer's weights were read by compute, on all devices together. */
  readonly microBatches: number;
  /** With tokens in this pass, on all devices together, */
  readonly sequences: number;
  /** of so many that could have had some. */
  readonly capacity: number;
  /** Prompts that nobody had begun when the pass was made. */
  readonly waitingPrompts: number;
  readonly finishedPrompts: number;
  readonly totalPrompts: number;
  /** Of those that are finished, and of those under way as if each became as long as it may. */
  readonly doneShare: number;
}

/**
 * Each device runs a stream of its own; all take their prompts from one queue, in its order. Results in the order of
 * the requests. Rejects with the signal's reason when aborted between passes.
 */
export async function generate(
  executor: Executor,
  requests: readonly GenerationRequest[],
  options: GenerationOptions,
): Promise<GenerationResult[]> {
  const places = new Map<GenerationRequest, number>();
  const results: GenerationResult[] = [];
  const next = async () => {
    const place = places.size;
    // A copy, because one request may be there twice.
    const request = { ...present(requests[place], 'request') };
    places.set(request, place);
    return request;
  };
  await runQueue(executor, { length: requests.length, next }, options, (request, result) => {
    results[present(places.get(request), 'place')] = result;
  });
  return results;
}

/** The same for requests without number: what they yield is told of by the options' functions, and not kept. */
export function generateEach(
  executor: Executor,
  queue: RequestQueue,
  options: GenerationOptions,
): Promise<void> {
  return runQueue(executor, queue, options, () => undefined);
}

type OnResult = (request: GenerationRequest, result: GenerationResult) => void;

async function runQueue(
  executor: Executor,
  queue: RequestQueue,
  options: GenerationOptions,
  onResult: OnResult,
): Promise<void> {
  if (queue.length === 0) return;
  const run = new Run(executor, queue, options, onResult);
  await run.admit();
  executor.begin(run.passLimit() ?? Number.POSITIVE_INFINITY);
  try {
    while (run.isBusy) {
      if (executor.passesLeft === 0) await goOn(executor, run.passLimit());
      const asExpected = await run.pass();
      const limit = asExpected ? undefined : run.passLimit();
      if (limit !== undefined) executor.limitPasses(limit);
    }
  } finally {
    await executor.end();
  }
}

/** Looking for a fault takes passes that nobody could expect. */
async function goOn(executor: Executor, passLimit = Number.POSITIVE_INFINITY): Promise<void> {
  await executor.end();
  executor.begin(passLimit);
}

/** What is known of a text that has ended. */
type Ended = Pick<Sequence, 'request' | 'tokens' | 'finishReason' | 'problem'>;

class Run {
  readonly #executor: Executor;
  readonly #options: GenerationOptions;
  readonly #queue: RequestQueue;
  readonly #onResult: OnResult;
  readonly #streams: readonly PromptStream[];
  #finished = 0;
  /** Requests that the queue has given. */
  #taken = 0;
  /** The last of them, while no stream has room for it. */
  #waiting: GenerationRequest | undefined;

  constructor(executor: Executor, queue: RequestQueue, options: GenerationOptions, onResult: OnResult) {
    this.#executor = executor;
    this.#options = options;
    this.#queue = queue;
    this.#onResult = onResult;
    this.#streams = Array.from({ length: executor.deviceCount }, () => new PromptStream(executor, options));
  }

  get isBusy(): boolean {
    return this.#streams.some(({ alive }) => alive.length > 0);
  }

  /** Passes to come at most; undefined while prompts wait, whose passes depend on how soon the others end. */
  passLimit(): number | undefined {
    if (this.#unbegun > 0) return undefined;
    return Math.max(...this.#streams.map((stream) => stream.passesLeft()));
  }

  /** Prompts that no stream has taken. */
  get #unbegun(): number {
    return this.#queue.length - this.#taken + (this.#waiting ? 1 : 0);
  }

  /** Whether it was a token of each sequence, and none has ended: then the passes to come are one fewer. */
  async pass(): Promise<boolean> {
    this.#options.signal?.throwIfAborted();
    const waitingPrompts = this.#unbegun;
    const passes = this.#streams.map((stream) => stream.nextPass());
    const results = await this.#executor.run({ perDevice: passes.map(({ microBatches }) => microBatches) });
    const phase = phaseOf(passes);
    const finishedBefore = this.#finished;
    for (const [index, stream] of this.#streams.entries()) {
      const pass = present(passes[index], 'pass');
      for (const ended of stream.take(pass, present(results[index], 'result'))) this.#finish(ended);
    }
    await this.admit();
    this.#options.onPass?.({
      phase,
      waitingPrompts,
      tokens: sum(passes.flatMap(({ work }) => work.map(({ slice }) => slice.tokens.length))),
      microBatches: sum(passes.map(({ microBatches }) => microBatches.length)),
      sequences: sum(passes.map(({ work }) => new Set(work.map(({ sequence }) => sequence)).size)),
      capacity: sum(this.#streams.map(({ capacity }) => capacity)),
      finishedPrompts: this.#finished,
      totalPrompts: this.#queue.length,
      doneShare: this.#doneShare(),
    });
    const single = passes.every(({ work }) => work.every(({ slice }) => slice.tokens.length === 1));
    return single && this.#finished === finishedBefore;
  }

  /** The emptiest stream takes the next prompt, until none has room for it or none waits. */
  async admit(): Promise<void> {
    while (this.#unbegun > 0) {
      // Asking the queue for a prompt that nobody has room for would only hold its memory.
      if (this.#streams.every((stream) => stream.alive.length >= stream.capacity)) return;
      const request = this.#waiting ?? (await this.#queue.next());
      if (request !== this.#waiting) this.#taken++;
      this.#waiting = request;
      const problem = requestProblem(request, this.#options, this.#executor);
      if (problem) {
        this.#waiting = undefined;
        this.#finish({ request, tokens: [], finishReason: 'error', problem });
        continue;
      }
      const roomy = this.#streams.filter((stream) => stream.hasRoomFor(request));
      // A stream without sequences says why the request is too large for it.
      const able = roomy.length > 0 || this.isBusy ? roomy : this.#streams;
      if (able.length === 0) return;
      able.reduce((best, stream) => (stream.alive.length < best.alive.length ? stream : best)).admit(request);
      this.#waiting = undefined;
    }
  }

  #finish(sequence: Ended): void {
    const { request, tokens, finishReason = 'length', problem } = sequence;
    const { index, sample = 0 } = request;
    const result = { index, sample, tokens, finishReason, ...(problem ? { problem } : {}) };
    this.#finished++;
    this.#onResult(request, result);
    this.#options.onFinished?.(result);
  }

  #doneShare(): number {
    const alive = this.#streams.flatMap((stream) => stream.alive);
    const underWay = sum(alive.map(({ tokens, maxNewTokens }) => tokens.length / maxNewTokens));
    return (this.#finished + underWay) / this.#queue.length;
  }
}

function phaseOf(passes: readonly StreamPass[]): PassProgress['phase'] {
  const work = passes.flatMap((pass) => pass.work);
  const goesOn = ({ sequence }: { readonly sequence: Sequence }) => sequence.tokens.length > 0;
  if (work.every(goesOn)) return 'decode';
  return work.some(goesOn) ? 'mixed' : 'prefill';
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
