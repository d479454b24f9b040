// The prompts that one device works on: each joins where another has left, takes its prompt in, and goes on token by token.

import {
  assert,
  type Executor,
  NO_TOKEN,
  type OperatingError,
  PageAllocator,
  type PassPlaces,
  type PassResult,
  pagesFor,
  type SamplingRow,
} from '../../offload/index.js';
import type { GenerationOptions, GenerationRequest } from './generate.js';
import { Suspect } from './not-finite.js';
import { type Feed, fillPass, type PackedPass, packPass, passesToFeed, type Work } from './packing.js';
import { GREEDY, isGreedy, samplingRow } from './sampler.js';

export interface Sequence {
  readonly request: GenerationRequest;
  readonly pages: readonly number[];
  readonly tokens: number[];
  readonly maxNewTokens: number;
  readonly stopTokens: ReadonlySet<number>;
  /** Tokens of prompt and continuation whose keys and values are in the cache. */
  fedTokens: number;
  readonly stopsAfter: ((token: number) => boolean) | undefined;
  /** Its logits were not finite, and it is computed again to say why. */
  suspect: Suspect | undefined;
  finishReason: 'stop' | 'length' | 'error' | undefined;
  /** Why it ends with `error`. */
  problem: OperatingError | undefined;
}

/** A stream's part of a pass. */
export interface StreamPass extends PackedPass<Sequence> {
  readonly work: readonly Work<Sequence>[];
}

export class PromptStream {
  readonly #executor: Executor;
  readonly #options: GenerationOptions;
  readonly #pages: PageAllocator;
  /** In the order in which they came. */
  #alive: Sequence[] = [];

  constructor(executor: Executor, options: GenerationOptions) {
    this.#executor = executor;
    this.#options = options;
    this.#pages = new PageAllocator(executor.plan.kvPages);
  }

  /** Sequences that it works on at once, at most. */
  get capacity(): number {
    return Math.min(this.#options.batchSize, this.#executor.plan.sequences);
  }

  get alive(): readonly Sequence[] {
    return this.#alive;
  }

  hasRoomFor(request: GenerationRequest): boolean {
    return this.#alive.length < this.capacity && this.#pages.canAllocate(this.#pagesOf(request));
  }

  /** Ask `hasRoomFor` first. */
  admit(request: GenerationRequest): void {
    assert(this.#alive.length < this.capacity, 'the stream has room');
    const pages = this.#pages.allocate(this.#pagesOf(request));
    const stopsAfter = this.#options.stopsAfter?.(request);
    this.#alive.push({
      request,
      pages,
      tokens: [],
      maxNewTokens: this.#maxNewTokensOf(request),
      stopTokens: request.stopTokens ?? this.#options.stopTokens,
      fedTokens: 0,
      stopsAfter,
      suspect: undefined,
      finishReason: undefined,
      problem: undefined,
    });
  }

  /** What comes next: a token of each sequence that goes on, and as much of the newcomers' prompts as there is room for. */
  nextPass(): StreamPass {
    const { plan } = this.#executor;
    const work = fillPass(this.#feeds(), plan);
    const draws = work.some(({ sequence }) => !isGreedy(sequence.request.sampling ?? GREEDY));
    const suspects = work.some(({ sequence }) => sequence.suspect);
    const isWatched = ({ suspect }: Sequence) => suspect !== undefined;
    return { work, ...packPass(work, plan, draws ? drawOf : undefined, suspects ? isWatched : undefined) };
  }

  /** Enters what the pass yielded; returns the sequences that have ended, whose room is free again. */
  take(
    { work, outputsOf }: StreamPass,
    { tokens, places }: Pick<PassResult, 'tokens' | 'places'>,
  ): Sequence[] {
    for (const { sequence, slice } of work) {
      sequence.fedTokens = slice.startPosition + slice.tokens.length;
    }
    if (places) noteSuspects(work, places);
    outputsOf.forEach((sequence, index) => {
      const token = tokens[index];
      assert(token !== undefined, 'the pass yields a token per output');
      if (sequence.suspect) this.#fail(sequence, sequence.suspect, token);
      else if (token === NO_TOKEN) suspect(sequence);
      else this.#append(sequence, token);
    });
    const ended = this.#alive.filter(({ finishReason }) => finishReason !== undefined);
    if (ended.length === 0) return [];
    for (const { pages } of ended) this.#pages.free(pages);
    this.#alive = this.#alive.filter(({ finishReason }) => finishReason === undefined);
    return ended;
  }

  /** Passes that the sequences here need at most, if no others join. */
  passesLeft(): number {
    const { plan, model } = this.#executor;
    const feeds = this.#feeds();
    const fed = passesToFeed(
      feeds.map(({ tokens }) => tokens.length),
      plan,
    );
    const { recomputeAtTokens: again = Number.POSITIVE_INFINITY } = model;
    const roomPerPass = Math.max(1, plan.passTokens - feeds.length);
    let [longest, extra] = [0, 0];
    feeds.forEach(({ sequence }, index) => {
      const left = sequence.maxNewTokens - sequence.tokens.length;
      longest = Math.max(longest, (fed[index] ?? 0) + left - 1);
      // Whoever outgrows the length is taken in again from its start, which may keep others waiting.
      const known = knownTokens(sequence);
      if (known < again && known + left > again) extra += Math.ceil(again / roomPerPass) + 1;
    });
    return longest + extra;
  }

  #pagesOf(request: GenerationRequest): number {
    const { pageTokens } = this.#executor.plan;
    return pagesFor(request.promptTokens.length + this.#maxNewTokensOf(request), pageTokens);
  }

  #maxNewTokensOf({ maxNewTokens = this.#options.maxNewTokens }: GenerationRequest): number {
    return maxNewTokens;
  }

  /** Sequences that go on with one token come first: nobody waits for the prompts of newcomers. */
  #feeds(): Feed<Sequence>[] {
    const feeds = this.#alive.map(feedOf);
    return [
      ...feeds.filter(({ tokens }) => tokens.length === 1),
      ...feeds.filter(({ tokens }) => tokens.length > 1),
    ];
  }

  /** @param again the token that computing again has yielded */
  #fail(sequence: Sequence, suspect: Suspect, again: number): void {
    const { request, tokens } = sequence;
    const what = `new token ${tokens.length} of prompt ${request.index} cannot be told`;
    sequence.finishReason = 'error';
    sequence.problem = suspect.error(what, again === NO_TOKEN, this.#executor);
  }

  #append(sequence: Sequence, token: number): void {
    if (sequence.stopTokens.has(token)) {
      sequence.finishReason = 'stop';
      return;
    }
    sequence.tokens.push(token);
    const { index, sample = 0 } = sequence.request;
    this.#options.onToken?.(index, token, sample);
    if (sequence.stopsAfter?.(token)) sequence.finishReason = 'stop';
    else if (sequence.tokens.length === sequence.maxNewTokens) sequence.finishReason = 'length';
    if (knownTokens(sequence) === this.#executor.model.recomputeAtTokens) sequence.fedTokens = 0;
  }
}

/** It is taken in again from its start. */
function suspect(sequence: Sequence): void {
  sequence.suspect = new Suspect();
  sequence.fedTokens = 0;
}

function noteSuspects(work: readonly Work<Sequence>[], places: PassPlaces): void {
  const next = { token: 0, output: 0 };
  for (const { sequence, slice, outputs } of work) {
    sequence.suspect?.note(places, next, slice.tokens.length, outputs.length, slice.startPosition);
    next.token += slice.tokens.length;
    next.output += outputs.length;
  }
}

function knownTokens({ request, tokens }: Sequence): number {
  return request.promptTokens.length + tokens.length;
}

/** The tokens that are known and not in the cache yet: at least one. */
function feedOf(sequence: Sequence): Feed<Sequence> {
  const { request, pages, tokens, fedTokens } = sequence;
  const { promptTokens } = request;
  const ahead = fedTokens - promptTokens.length;
  const wanted =
    ahead >= 0
      ? Int32Array.from(tokens.slice(ahead))
      : tokens.length === 0
        ? promptTokens.subarray(fedTokens)
        : joined(promptTokens, tokens).subarray(fedTokens);
  return { sequence, tokens: wanted, start: fedTokens, pages };
}

/** How the sequence's next token is drawn. */
function drawOf({ request, tokens }: Sequence): SamplingRow {
  const { index, randomIndex = index, sample = 0, promptTokens, sampling = GREEDY } = request;
  const draw = { prompt: randomIndex, sample, step: tokens.length };
  return samplingRow(sampling, draw, () => joined(promptTokens, tokens));
}

function joined(prompt: Int32Array, tokens: readonly number[]): Int32Array {
  const all = new Int32Array(prompt.length + tokens.length);
  all.set(prompt);
  all.set(tokens, prompt.length);
  return all;
}
