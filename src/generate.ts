// Generation: prefill passes, then one decode pass per new token, for groups of at most `batchSize` prompts.

import { type Executor, PageAllocator, pagesFor, present, type SamplingRow } from '../offload/index.js';
import { cutPasses, cutSequence, packPass, type Work } from './batch.js';
import { GREEDY, isGreedy, type SamplingSettings, samplingRow } from './sampler.js';

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
  readonly finishReason: 'stop' | 'length';
}

export interface GenerationOptions {
  readonly batchSize: number;
  readonly maxNewTokens: number;
  /** A sequence ends after one of these, which is not part of its result; empty to ignore them. */
  readonly stopTokens: ReadonlySet<number>;
  /** Made for every sequence and told of its tokens: true ends it, and the token stays part of its result. */
  readonly stopsAfter?: (request: GenerationRequest) => (token: number) => boolean;
  readonly signal?: AbortSignal;
  /** Each new token as it is known, in the order of the batch. */
  readonly onToken?: (index: number, token: number, sample: number) => void;
  readonly onFinished?: (result: GenerationResult) => void;
  /** After each pass. */
  readonly onPass?: (pass: PassProgress) => void;
}

export interface PassProgress {
  readonly phase: 'prefill' | 'decode';
  readonly tokens: number;
  /** How often each layer's weights were read by compute. */
  readonly microBatches: number;
  readonly finishedPrompts: number;
  readonly totalPrompts: number;
}

interface Sequence {
  readonly request: GenerationRequest;
  readonly pages: readonly number[];
  readonly tokens: number[];
  readonly stopsAfter: ((token: number) => boolean) | undefined;
  finishReason: 'stop' | 'length' | undefined;
}

/** Results in the order of the requests. Rejects with the signal's reason when aborted between passes. */
export async function generate(
  executor: Executor,
  requests: readonly GenerationRequest[],
  options: GenerationOptions,
): Promise<GenerationResult[]> {
  const groups: GenerationRequest[][] = [];
  for (let first = 0; first < requests.length; first += options.batchSize) {
    groups.push(requests.slice(first, first + options.batchSize));
  }
  const passes = groups.map((group) => passCount(executor, group, options));
  const run = new Run(executor, requests.length, options);
  executor.begin(passes.reduce((sum, count) => sum + count, 0));
  try {
    const results: GenerationResult[] = [];
    for (const [index, group] of groups.entries()) {
      const after = passes.slice(index + 1).reduce((sum, count) => sum + count, 0);
      results.push(...(await run.group(group, after)));
    }
    return results;
  } finally {
    await executor.end();
  }
}

/** Passes that a group takes at most. */
function passCount(
  executor: Executor,
  group: readonly GenerationRequest[],
  options: GenerationOptions,
): number {
  const { plan, model } = executor;
  const work = group.flatMap((request) =>
    cutSequence(request, request.promptTokens, 0, [], plan, () => false),
  );
  const passes = cutPasses(work, plan).length + options.maxNewTokens - 1;
  const { recomputeAtTokens: again = Number.POSITIVE_INFINITY } = model;
  const outgrow = group.filter(({ promptTokens }) => {
    return promptTokens.length < again && promptTokens.length + options.maxNewTokens > again;
  });
  if (outgrow.length === 0) return passes;
  // Each of them fills passes of its own, and may part the other sequences' tokens of that step.
  const whole = cutSequence(undefined, new Int32Array(again), 0, [], plan, () => false);
  return passes + outgrow.length * (cutPasses(whole, plan).length + 1);
}

class Run {
  readonly #executor: Executor;
  readonly #options: GenerationOptions;
  readonly #totalPrompts: number;
  readonly #pages: PageAllocator;
  #finishedPrompts = 0;

  constructor(executor: Executor, totalPrompts: number, options: GenerationOptions) {
    this.#executor = executor;
    this.#totalPrompts = totalPrompts;
    this.#options = options;
    this.#pages = new PageAllocator(executor.plan.kvPages);
  }

  /** @param passesAfter passes that later groups may need */
  async group(requests: readonly GenerationRequest[], passesAfter: number): Promise<GenerationResult[]> {
    const { maxNewTokens } = this.#options;
    const sequences = requests.map((request): Sequence => {
      const pages = this.#pages.allocate(pagesFor(request.promptTokens.length + maxNewTokens));
      const stopsAfter = this.#options.stopsAfter?.(request);
      return { request, pages, tokens: [], stopsAfter, finishReason: undefined };
    });
    await this.#prefill(sequences);
    for (let made = 1; made < maxNewTokens; made++) {
      const alive = sequences.filter(({ finishReason }) => finishReason === undefined);
      if (alive.length === 0) break;
      const work = alive.flatMap((sequence) => this.#decodeWork(sequence));
      for (const pass of cutPasses(work, this.#executor.plan)) await this.#pass('decode', pass);
    }
    // Sequences that ended early leave passes unused.
    this.#executor.limitPasses(passesAfter);
    for (const { pages } of sequences) this.#pages.free(pages);
    return sequences.map(toResult);
  }

  async #prefill(sequences: readonly Sequence[]): Promise<void> {
    const { plan } = this.#executor;
    const work = sequences.flatMap((sequence) => {
      const { promptTokens } = sequence.request;
      const last = promptTokens.length - 1;
      return cutSequence(sequence, promptTokens, 0, sequence.pages, plan, (position) => position === last);
    });
    for (const pass of cutPasses(work, plan)) await this.#pass('prefill', pass);
  }

  #decodeWork(sequence: Sequence): Work<Sequence>[] {
    const { plan, model } = this.#executor;
    const { promptTokens } = sequence.request;
    const last = promptTokens.length + sequence.tokens.length - 1;
    const outgrown = last + 1 === model.recomputeAtTokens;
    const tokens = outgrown
      ? Int32Array.from([...promptTokens, ...sequence.tokens])
      : Int32Array.of(present(sequence.tokens.at(-1), 'last token'));
    const start = outgrown ? 0 : last;
    return cutSequence(sequence, tokens, start, sequence.pages, plan, (position) => position === last);
  }

  async #pass(phase: 'prefill' | 'decode', work: readonly Work<Sequence>[]): Promise<void> {
    this.#options.signal?.throwIfAborted();
    const draws = work.some(({ sequence }) => !isGreedy(sequence.request.sampling ?? GREEDY));
    const { microBatches, outputsOf } = packPass(work, this.#executor.plan, draws ? drawOf : undefined);
    const [result] = await this.#executor.run({ perDevice: [microBatches] });
    outputsOf.forEach((sequence, index) => {
      this.#take(sequence, present(result?.tokens[index], 'token'));
    });
    this.#options.onPass?.({
      phase,
      tokens: work.reduce((sum, { slice }) => sum + slice.tokens.length, 0),
      microBatches: microBatches.length,
      finishedPrompts: this.#finishedPrompts,
      totalPrompts: this.#totalPrompts,
    });
  }

  #take(sequence: Sequence, token: number): void {
    const { stopTokens, maxNewTokens, onToken, onFinished } = this.#options;
    if (stopTokens.has(token)) {
      sequence.finishReason = 'stop';
    } else {
      sequence.tokens.push(token);
      const { index, sample = 0 } = sequence.request;
      onToken?.(index, token, sample);
      if (sequence.stopsAfter?.(token)) sequence.finishReason = 'stop';
      else if (sequence.tokens.length === maxNewTokens) sequence.finishReason = 'length';
    }
    if (sequence.finishReason === undefined) return;
    this.#finishedPrompts++;
    onFinished?.(toResult(sequence));
  }
}

/** How the sequence's next token is drawn. */
function drawOf({ request, tokens }: Sequence): SamplingRow {
  const { index, sample = 0, promptTokens, sampling = GREEDY } = request;
  const draw = { prompt: index, sample, step: tokens.length };
  return samplingRow(sampling, draw, () => joined(promptTokens, tokens));
}

function toResult({ request, tokens, finishReason }: Sequence): GenerationResult {
  return {
    index: request.index,
    sample: request.sample ?? 0,
    tokens,
    finishReason: finishReason ?? 'length',
  };
}

function joined(prompt: Int32Array, tokens: readonly number[]): Int32Array {
  const all = new Int32Array(prompt.length + tokens.length);
  all.set(prompt);
  all.set(tokens, prompt.length);
  return all;
}
