// The texts of a job as requests: encoded a few ahead of those that are being made, and forgotten when they are done.

import { assert, present } from '../../../offload/index.js';
import type { GenerationQueue } from '../../engine/generate.js';
import type { GenerationRequest } from '../../engine/request.js';
import { isGreedy } from '../../engine/sampler.js';
import { promptEnd, StoppingDecoder } from '../../text/stop-strings.js';
import { IncrementalDecoder } from '../../text/text-decoder.js';
import type { GenerateOptions } from '../options/generate-options.js';
import { type Job, samplingOf } from './job.js';
import type { EncodedPrompt } from './prompts.js';

export class RequestFeed implements GenerationQueue {
  readonly length: number;
  readonly #job: Job;
  readonly #options: GenerateOptions;
  readonly #places: Int32Array;
  /** Encoded on their way, so that no pass waits for the tokenizer. */
  readonly #batches: AsyncGenerator<readonly EncodedPrompt[], void>;
  #coming: Promise<IteratorResult<readonly EncodedPrompt[], void>> | undefined;
  readonly #ready = new Map<number, EncodedPrompt>();
  /** By place: requests that were given and are not finished. */
  readonly #alive = new Map<number, EncodedPrompt>();
  #given = 0;

  /** @param places of the texts, in order */
  constructor(job: Job, places: Int32Array, options: GenerateOptions) {
    this.length = places.length;
    this.#job = job;
    this.#options = options;
    this.#places = places;
    this.#batches = job.coder.encode(job.prompts, promptsOf(places, job.samples));
    this.#ask();
  }

  async next(): Promise<GenerationRequest> {
    const place = present(this.#places[this.#given++], 'place');
    const { samples } = this.#job;
    const [index, sample] = [Math.floor(place / samples), place % samples];
    const prompt = await this.#encoded(index);
    // The last text of its prompt: the others have been given.
    if (
      this.#given === this.length ||
      Math.floor(present(this.#places[this.#given], 'place') / samples) !== index
    ) {
      this.#ready.delete(index);
    }
    this.#alive.set(place, this.#options.samples === undefined ? prompt : { ...prompt, sample });
    return requestOf(prompt, sample, this.#job, this.#options);
  }

  /** The prompt of a text that is being made. */
  promptOf(place: number): EncodedPrompt {
    return present(this.#alive.get(place), 'prompt of a text');
  }

  finished(place: number): void {
    this.#alive.delete(place);
  }

  async #encoded(index: number): Promise<EncodedPrompt> {
    for (let prompt = this.#ready.get(index); ; prompt = this.#ready.get(index)) {
      if (prompt) return prompt;
      const { value } = await present(this.#coming, 'prompts to come');
      assert(value !== undefined, 'each text has a prompt');
      for (const one of value) this.#ready.set(one.index, one);
      this.#ask();
    }
  }

  #ask(): void {
    this.#coming = this.#batches.next();
    // Whoever waits for it is told; nobody may be waiting when the run is stopped.
    this.#coming.catch(() => undefined);
  }
}

/** Each prompt once, whatever the number of its texts. */
function* promptsOf(places: Int32Array, samples: number): Generator<number, void> {
  let last = -1;
  for (const place of places) {
    const index = Math.floor(place / samples);
    if (index !== last) yield index;
    last = index;
  }
}

const NO_TOKENS: ReadonlySet<number> = new Set();

export function requestOf(
  prompt: EncodedPrompt,
  sample: number,
  { endTokens }: Pick<Job, 'endTokens'>,
  options: GenerateOptions,
): GenerationRequest {
  const { index, tokens, own } = prompt;
  const sampling = samplingOf(prompt, options);
  return {
    index,
    sample,
    promptTokens: tokens,
    maxNewTokens: own?.maxNewTokens ?? options.maxNewTokens,
    stopTokens: (own?.ignoreEos ?? options.ignoreEos) ? NO_TOKENS : endTokens,
    ...(isGreedy(sampling) ? {} : { sampling }),
    // With a seed of its own, a text does not depend on where in the input it is.
    ...(own?.sampling?.seed === undefined ? {} : { randomIndex: 0 }),
  };
}

/** Watches the text of each sequence for the first stop string. */
export function stopsAfter(
  job: Pick<Job, 'samples' | 'vocabulary'>,
  feed: Pick<RequestFeed, 'promptOf'>,
  options: GenerateOptions,
) {
  return ({ index, sample = 0, promptTokens }: GenerationRequest) => {
    const { own } = feed.promptOf(index * job.samples + sample);
    const strings = own?.stopStrings ?? options.stopStrings;
    if (strings.length === 0) return () => false;
    const tokenizer = present(job.vocabulary.tokenizer, 'tokenizer');
    const before = promptEnd(tokenizer, promptTokens, strings);
    const decoder = new StoppingDecoder(
      new IncrementalDecoder(tokenizer, [...promptTokens]),
      strings,
      before,
    );
    return (token: number) => {
      decoder.push(token);
      return decoder.stopped;
    };
  };
}
