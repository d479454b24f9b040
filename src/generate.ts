// Generation: passes through all layers, in which every device takes the next prompt as soon as one of its own has ended.

import { type Executor, type OperatingError, present } from '../offload/index.js';
import { PromptStream, type Sequence, type StreamPass } from './prompt-stream.js';
import type { SamplingSettings } from './sampler.js';

export interface GenerationRequest {
  /** Identifies the prompt in results, and in what is random. */
  readonly index: number;
  /** Which of a prompt's continuations this is; 0 where there is one. */
  readonly sample?: number;
  /** At least one. */
  readonly promptTokens: Int32Array;
  /** Absent: the likeliest token at every step. A repetition penalty must have been planned for (`history`). */
  readonly sampling?: SamplingSettings;
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
  if (requests.length === 0) return [];
  const run = new Run(executor, requests, options);
  executor.begin(run.passLimit() ?? Number.POSITIVE_INFINITY);
  try {
    while (run.isBusy) {
      const asExpected = await run.pass();
      const limit = asExpected ? undefined : run.passLimit();
      if (limit !== undefined) executor.limitPasses(limit);
    }
    return run.results();
  } finally {
    await executor.end();
  }
}

class Run {
  readonly #executor: Executor;
  readonly #options: GenerationOptions;
  readonly #requests: readonly GenerationRequest[];
  readonly #streams: readonly PromptStream[];
  readonly #results = new Map<GenerationRequest, GenerationResult>();
  /** The next request that no stream has taken. */
  #next = 0;

  constructor(executor: Executor, requests: readonly GenerationRequest[], options: GenerationOptions) {
    this.#executor = executor;
    this.#options = options;
    this.#requests = requests;
    this.#streams = Array.from({ length: executor.deviceCount }, () => new PromptStream(executor, options));
    this.#admit();
  }

  get isBusy(): boolean {
    return this.#streams.some(({ alive }) => alive.length > 0);
  }

  /** Passes to come at most; undefined while prompts wait, whose passes depend on how soon the others end. */
  passLimit(): number | undefined {
    if (this.#next < this.#requests.length) return undefined;
    return Math.max(...this.#streams.map((stream) => stream.passesLeft()));
  }

  results(): GenerationResult[] {
    return this.#requests.map((request) => present(this.#results.get(request), 'result'));
  }

  /** Whether it was a token of each sequence, and none has ended: then the passes to come are one fewer. */
  async pass(): Promise<boolean> {
    this.#options.signal?.throwIfAborted();
    const waitingPrompts = this.#requests.length - this.#next;
    const passes = this.#streams.map((stream) => stream.nextPass());
    const results = await this.#executor.run({ perDevice: passes.map(({ microBatches }) => microBatches) });
    const phase = phaseOf(passes);
    const finishedBefore = this.#results.size;
    for (const [index, stream] of this.#streams.entries()) {
      const pass = present(passes[index], 'pass');
      for (const ended of stream.take(pass, present(results[index], 'result').tokens)) this.#finish(ended);
    }
    this.#admit();
    this.#options.onPass?.({
      phase,
      waitingPrompts,
      tokens: sum(passes.flatMap(({ work }) => work.map(({ slice }) => slice.tokens.length))),
      microBatches: sum(passes.map(({ microBatches }) => microBatches.length)),
      sequences: sum(passes.map(({ work }) => new Set(work.map(({ sequence }) => sequence)).size)),
      capacity: sum(this.#streams.map(({ capacity }) => capacity)),
      finishedPrompts: this.#results.size,
      totalPrompts: this.#requests.length,
      doneShare: this.#doneShare(),
    });
    const single = passes.every(({ work }) => work.every(({ slice }) => slice.tokens.length === 1));
    return single && this.#results.size === finishedBefore;
  }

  /** The emptiest stream takes the next prompt, until none has room for it or none waits. */
  #admit(): void {
    for (; this.#next < this.#requests.length; this.#next++) {
      const request = present(this.#requests[this.#next], 'request');
      const roomy = this.#streams.filter((stream) => stream.hasRoomFor(request));
      // A stream without sequences says why the request is too large for it.
      const able = roomy.length > 0 || this.isBusy ? roomy : this.#streams;
      if (able.length === 0) return;
      able.reduce((best, stream) => (stream.alive.length < best.alive.length ? stream : best)).admit(request);
    }
  }

  #finish(sequence: Sequence): void {
    const { request, tokens, finishReason = 'length', problem } = sequence;
    const { index, sample = 0 } = request;
    const result = { index, sample, tokens, finishReason, ...(problem ? { problem } : {}) };
    this.#results.set(request, result);
    this.#options.onFinished?.(result);
  }

  #doneShare(): number {
    const alive = this.#streams.flatMap((stream) => stream.alive);
    const underWay = sum(alive.map(({ tokens }) => tokens.length)) / this.#options.maxNewTokens;
    return (this.#results.size + underWay) / this.#requests.length;
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
