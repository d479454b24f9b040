// A request on its way: which of its tokens are known, which of them are in the cache, and what came of it.

import {
  assert,
  NO_TOKEN,
  OperatingError,
  present,
  type SamplingRow,
  type TokenMask,
} from '../../offload/index.js';
import { AddedLogits, addsToLogits } from './added-logits.js';
import type { HeldPages } from './late-pages.js';
import { likelihoodAt, type PassLikelihoods } from './likelihood.js';
import { Suspect } from './not-finite.js';
import type { Feed } from './packing.js';
import type { Page } from './page-cache.js';
import type {
  EngineRequest,
  FinishReason,
  GenerationRequest,
  GenerationResult,
  RequestListener,
  TokenConstraint,
  TokenLikelihood,
  Turn,
} from './request.js';
import { GREEDY, isGreedy, samplingRow } from './sampler.js';

/** What a request asks for, with everything that it leaves to others. */
export interface Wanted {
  readonly maxNewTokens: number;
  readonly stopTokens: ReadonlySet<number>;
  readonly stopsAfter: ((token: number) => boolean) | undefined;
}

/** Where cached keys are of one length of their sequence, and what then has to be done. */
export interface LengthRules {
  /** Rotations of longer sequences depend on their length. */
  readonly lengthDependentAfterTokens?: number | undefined;
  /** A sequence that reaches this length is computed again from its start. */
  readonly recomputeAtTokens?: number | undefined;
}

export class Sequence {
  readonly request: EngineRequest;
  readonly wanted: Wanted;
  /** The earlier it came, the later it has to make room for others. */
  readonly arrival: number;
  readonly #listener: RequestListener;
  /** What a continuation has become so far. */
  readonly newTokens: number[] = [];
  readonly #logProbs: number[] = [];
  readonly #likelihoods: TokenLikelihood[] = [];
  /** Those of its prompt's tokens from the second on; undefined where nobody asks. */
  readonly #promptLikelihoods: TokenLikelihood[] | undefined;
  #isPromptTold = false;
  /** Undefined where its settings add nothing. */
  readonly #added: AddedLogits | undefined;
  /** Known tokens whose keys and values are in the cache. */
  fedTokens = 0;
  /** It holds these, in the order of its positions. */
  pages: Page[] = [];
  /** Their numbers, as passes take them. */
  pageNumbers: number[] = [];
  /** Which of them it still reads in blocks that see only the latest tokens, by horizon of the plan. */
  late: HeldPages[] = [];
  /** Where blocks keep what they know of it, in those that keep a state; from admission until it leaves. */
  stateSlot: number | undefined;
  /** So many of the first are filled by others. */
  sharedPages = 0;
  /** So many of the first are known to others. */
  publishedPages = 0;
  /** Its logits were not finite, and it is computed again to say why. */
  suspect: Suspect | undefined;
  finishReason: FinishReason | undefined;
  #isTold = false;
  /** New tokens that whoever asked has not been told of. */
  #untold = 0;
  /** Why it ends with `error`. */
  problem: OperatingError | undefined;
  /** What its own functions have thrown. */
  #thrown: { readonly error: unknown } | undefined;

  constructor(request: EngineRequest, wanted: Wanted, arrival: number, listener: RequestListener) {
    this.request = request;
    this.wanted = wanted;
    this.arrival = arrival;
    this.#listener = listener;
    const { sampling, promptLogProbs } = isScoring(request) ? {} : request;
    this.#added = sampling && addsToLogits(sampling) ? new AddedLogits(sampling) : undefined;
    this.#promptLikelihoods = promptLogProbs ? [] : undefined;
  }

  /** Tokens to begin with: a prompt, or what is scored without the last, which is only predicted. */
  get givenTokens(): Int32Array {
    const { request } = this;
    return isScoring(request) ? request.scoredTokens.subarray(0, -1) : request.promptTokens;
  }

  /** Those given and those made so far. */
  get knownTokens(): number {
    return this.givenTokens.length + this.newTokens.length;
  }

  /** The most that it may ever have in the cache. */
  get mostTokens(): number {
    return this.givenTokens.length + this.wanted.maxNewTokens;
  }

  get draws(): boolean {
    const { request } = this;
    if (isScoring(request)) return false;
    return request.constraint !== undefined || !isGreedy(request.sampling ?? GREEDY);
  }

  /** Whatever its next token is, the one behind it is drawn in the same way, and nothing else is told of it. */
  get drawsFreely(): boolean {
    const { request } = this;
    if (isScoring(request) || request.constraint || this.likelihoods !== undefined || this.scoresPrompt)
      return false;
    return this.#added === undefined && (request.sampling ?? GREEDY).repetitionPenalty === 1;
  }

  /** How likely its tokens are is wanted, and so many of the likeliest in place of each; undefined: neither. */
  get likelihoods(): number | undefined {
    const { request } = this;
    return isScoring(request) || !request.logProbs ? undefined : (request.topLogProbs ?? 0);
  }

  /** How likely tokens of its prompt are is wanted, and not all of that is known. */
  get scoresPrompt(): boolean {
    return this.#promptLikelihoods !== undefined && !this.#isPromptScored;
  }

  get #isPromptScored(): boolean {
    return (this.#promptLikelihoods?.length ?? 0) === this.givenTokens.length - 1;
  }

  /** The known tokens from `start` to `end`. */
  tokensBetween(start: number, end: number): Int32Array {
    const given = this.givenTokens;
    if (end <= given.length) return given.subarray(start, end);
    if (start >= given.length) {
      return Int32Array.from(this.newTokens.slice(start - given.length, end - given.length));
    }
    return joined(given, this.newTokens).subarray(start, end);
  }

  /**
   * The tokens that are known and not in the cache yet: at least one. Where every cached key is of its sequence's length
   * at that time, a sequence that is taken in again takes its new tokens one by one, as it did at first.
   */
  feed({ lengthDependentAfterTokens, recomputeAtTokens }: LengthRules): Feed<Sequence> {
    const { fedTokens, pageNumbers: pages, stateSlot, knownTokens, request } = this;
    const given = this.givenTokens.length;
    if (this.scoresPrompt && fedTokens < given - 1) return this.#promptFeed();
    const isByLength =
      recomputeAtTokens === undefined &&
      knownTokens > (lengthDependentAfterTokens ?? Number.POSITIVE_INFINITY) &&
      fedTokens < knownTokens - 1;
    const end = !isByLength ? knownTokens : fedTokens < given ? given : fedTokens + 1;
    const tokens = this.tokensBetween(fedTokens, end);
    const feed = { sequence: this, tokens, start: fedTokens, pages, stateSlot };
    if (isScoring(request)) {
      const targets = request.scoredTokens.subarray(fedTokens + 1);
      return { ...feed, outputs: 'all', targets, knownTokens: request.scoredTokens.length };
    }
    return end === knownTokens ? feed : { ...feed, outputs: 'none' };
  }

  /** Every token of the prompt but the last yields how likely the next one is; those that have done so yield nothing again. */
  #promptFeed(): Feed<Sequence> {
    const { fedTokens: start, pageNumbers: pages, stateSlot, knownTokens } = this;
    const known = this.#promptLikelihoods?.length ?? 0;
    const feed = { sequence: this, start, pages, stateSlot, knownTokens };
    if (start < known) return { ...feed, tokens: this.tokensBetween(start, known), outputs: 'none' };
    const end = this.givenTokens.length;
    const targets = this.tokensBetween(start + 1, end);
    return { ...feed, tokens: this.tokensBetween(start, end - 1), outputs: 'all', targets };
  }

  /** How the next token is drawn. @param stepsAhead behind that one */
  draw(stepsAhead = 0): SamplingRow {
    const request = this.request as GenerationRequest;
    const { index, randomIndex = index, sample = 0, promptTokens, sampling = GREEDY, constraint } = request;
    const draw = { prompt: randomIndex, sample, step: this.newTokens.length + stepsAhead };
    const drawn = samplingRow(sampling, draw, () => joined(promptTokens, this.newTokens));
    const row = this.#added ? { ...drawn, added: this.#added.row() } : drawn;
    return constraint ? { ...row, allowed: this.#allowed(constraint) } : row;
  }

  /** Where that cannot be said, the request ends, and what is drawn instead is nobody's. */
  async #allowed(constraint: TokenConstraint): Promise<TokenMask> {
    try {
      return await constraint.after(this.newTokens);
    } catch (error) {
      if (error instanceof OperatingError) this.problem ??= error;
      else this.#thrown ??= { error };
      this.finishReason ??= 'error';
      return undefined;
    }
  }

  /** Enters a token that a pass has yielded; false where the text has not become longer by it. `tellTokens` is to follow. */
  accept(token: number, likelihoods: PassLikelihoods, output: number): boolean {
    if (token === NO_TOKEN) {
      this.becomeSuspect();
      return false;
    }
    const { stopTokens, stopsAfter, maxNewTokens } = this.wanted;
    if (stopTokens.has(token)) {
      this.finishReason = 'stop';
      return false;
    }
    this.newTokens.push(token);
    this.#added?.note(token);
    if (this.likelihoods !== undefined) {
      const likelihood = likelihoodAt(output, likelihoods, this.likelihoods);
      this.#logProbs.push(likelihood.logProb);
      this.#likelihoods.push(likelihood);
    }
    this.#untold++;
    if (this.#own(() => stopsAfter?.(token))) this.finishReason ??= 'stop';
    else if (this.newTokens.length === maxNewTokens) this.finishReason ??= 'length';
    return true;
  }

  /** Enters how likely one more token of the prompt is; true where that was the last. `tellTokens` is to follow. */
  acceptPromptLikelihood(likelihoods: PassLikelihoods, output: number): boolean {
    const likelihood = likelihoodAt(output, likelihoods, this.likelihoods ?? 0);
    if (!Number.isFinite(likelihood.logProb)) {
      this.becomeSuspect();
      return false;
    }
    this.#promptLikelihoods?.push(likelihood);
    if (this.#isPromptScored && this.wanted.maxNewTokens === 0) this.finishReason = 'length';
    return this.#isPromptScored;
  }

  /** Tells whoever asked of the tokens that were entered since. */
  tellTokens(): void {
    const scored = this.#promptLikelihoods;
    if (scored && !this.#isPromptTold && this.#isPromptScored) {
      this.#isPromptTold = true;
      this.#own(() => this.#listener.onPrompt?.(scored));
    }
    const count = this.newTokens.length;
    for (; this.#untold > 0; this.#untold--) {
      const at = count - this.#untold;
      const token = present(this.newTokens[at], 'token');
      this.#own(() => this.#listener.onToken?.(token, this.#likelihoods[at]));
    }
  }

  /** A function of whoever asked: where it throws, this request alone ends, if its listener can be told. */
  #own<T>(call: () => T): T | undefined {
    try {
      return call();
    } catch (error) {
      if (!this.#listener.onFailed) throw error;
      this.#thrown ??= { error };
      this.finishReason = 'error';
      return undefined;
    }
  }

  /** Enters how likely one more of the scored tokens is, as a negative logarithm. */
  acceptLikelihood(nll: number): void {
    if (!Number.isFinite(nll)) {
      this.becomeSuspect();
      return;
    }
    this.#logProbs.push(-nll);
    const request = this.request;
    assert(isScoring(request), 'likelihoods are of scored tokens');
    if (this.#logProbs.length === request.scoredTokens.length - 1) this.finishReason = 'length';
  }

  /** It is taken in again from its start, and watched meanwhile. */
  becomeSuspect(): void {
    this.suspect ??= new Suspect();
  }

  /** What cannot be told where its logits are not finite, as a sentence begins. */
  get unknown(): string {
    const { request } = this;
    if (!isScoring(request))
      return `new token ${this.newTokens.length} of prompt ${request.index} cannot be told`;
    const position = (request.firstPosition ?? 0) + this.#logProbs.length + 1;
    return `the likelihood of token ${position} cannot be told`;
  }

  fail(problem: OperatingError): void {
    this.finishReason = 'error';
    this.problem = problem;
  }

  result(): GenerationResult {
    const { request, newTokens, finishReason = 'length', problem } = this;
    const { index } = request;
    return {
      index,
      sample: isScoring(request) ? 0 : (request.sample ?? 0),
      tokens: newTokens,
      ...(isScoring(request) || this.likelihoods !== undefined ? { logProbs: this.#logProbs } : {}),
      finishReason,
      ...(problem ? { problem } : {}),
    };
  }

  /** Whoever asked has been told what became of it. */
  get isTold(): boolean {
    return this.#isTold;
  }

  finished(): void {
    if (this.#thrown) {
      this.failed(this.#thrown.error);
      return;
    }
    this.#end();
    this.#listener.onFinished?.(this.result());
  }

  failed(error: unknown): void {
    this.#end();
    this.#listener.onFailed?.(error);
  }

  #end(): void {
    if (!this.#isTold && !isScoring(this.request)) this.request.constraint?.close();
    this.#isTold = true;
  }
}

const NOBODYS: Turn = { client: '', kind: 'interactive' };

/** Whose turn it is when it begins. */
export function turnOf({ request }: Sequence): Turn {
  return (isScoring(request) ? undefined : request.turn) ?? NOBODYS;
}

export function isScoring(
  request: EngineRequest,
): request is Extract<EngineRequest, { scoredTokens: Int32Array }> {
  return 'scoredTokens' in request;
}

function joined(prompt: Int32Array, tokens: readonly number[]): Int32Array {
  const all = new Int32Array(prompt.length + tokens.length);
  all.set(prompt);
  all.set(tokens, prompt.length);
  return all;
}
