// The texts of a part of a job: its prompts become requests, and what comes of them the lines of its results.

import { present } from '../../../offload/index.js';
import type { GenerationResult } from '../../engine/request.js';
import type { Scheduler } from '../../engine/scheduler.js';
import type { ChunkResult } from '../../queue/chunk.js';
import type { HeldChunk } from '../../queue/leases.js';
import type { Job } from '../generation/job.js';
import { JsonLinesSink, Rendering } from '../generation/output.js';
import type { PromptCoder } from '../generation/prompt-coder.js';
import type { PromptList } from '../generation/prompt-list.js';
import type { EncodedPrompt, Prompt } from '../generation/prompts.js';
import { requestOf, stopsAfter } from '../generation/request-feed.js';
import type { GenerateOptions } from '../options/generate-options.js';
import type { PartAtWork, PartMaker } from './part-maker.js';

/** What all parts of a job have in common on this worker. */
interface TextMaker {
  readonly scheduler: Scheduler;
  readonly coder: PromptCoder;
  readonly job: Pick<Job, 'samples' | 'vocabulary' | 'endTokens'>;
  readonly options: GenerateOptions;
  /** After each text. */
  readonly onText: (newTokens: number) => void;
}

/** Makes the texts of a job's parts. */
export class PromptMaker implements PartMaker<Prompt> {
  readonly samples: number;
  readonly #maker: Omit<TextMaker, 'onText'>;

  constructor(maker: Omit<TextMaker, 'onText'>) {
    this.#maker = maker;
    this.samples = maker.job.samples;
  }

  /** Begins all of them together. */
  async begin(chunks: readonly HeldChunk<Prompt>[], onText: () => void): Promise<PartAtWork[]> {
    const encoded = await Promise.all(chunks.map((chunk) => encodeChunk(this.#maker, chunk)));
    return encoded.map((prompts) => new ChunkTexts({ ...this.#maker, onText }, prompts));
  }

  newTokensOf({ new_tokens }: Readonly<Record<string, unknown>>): number {
    return Number(new_tokens);
  }
}

async function encodeChunk(
  { coder }: Pick<TextMaker, 'coder'>,
  { prompts }: HeldChunk<Prompt>,
): Promise<EncodedPrompt[]> {
  const byIndex = new Map(prompts);
  const list: PromptList = {
    length: byIndex.size,
    heldBytes: 0,
    has: { text: false, messages: false, stopStrings: false },
    at: (index) => present(byIndex.get(index), 'prompt'),
  };
  const encoded: EncodedPrompt[] = [];
  for await (const batch of coder.encode(list, byIndex.keys())) encoded.push(...batch);
  return encoded;
}

/** One part under way. */
class ChunkTexts implements PartAtWork {
  readonly #maker: TextMaker;
  readonly #lines: Record<string, unknown>[] = [];
  readonly #sink: JsonLinesSink;
  readonly #cancels: (() => void)[] = [];
  /** Texts that are not made yet. */
  open = 0;
  readonly result: Promise<ChunkResult>;

  constructor(maker: TextMaker, prompts: readonly EncodedPrompt[]) {
    this.#maker = maker;
    const { options, job } = maker;
    const rendering = new Rendering(
      job.vocabulary.tokenizer,
      options.stopStrings,
      options.chat !== undefined,
    );
    const write = (line: Readonly<Record<string, unknown>>) => void this.#lines.push(line);
    this.#sink = new JsonLinesSink(rendering, { write, close: () => undefined });
    this.result = this.#make(prompts);
  }

  /** Resolves with a line per text, in the order of the prompts. Rejects with what ended the engine. */
  async #make(prompts: readonly EncodedPrompt[]): Promise<ChunkResult> {
    const { samples } = this.#maker.job;
    this.open = prompts.length * samples;
    const texts = prompts.flatMap((prompt) =>
      Array.from({ length: samples }, (_, sample) => this.#makeText(prompt, sample)),
    );
    const results = await Promise.all(texts);
    // Lines stand where their prompts do, so that a part always reads alike.
    for (const [prompt, result, place] of results) {
      if (result) this.#sink.onFinished({ place, prompt }, result);
      else this.#sink.onFailed({ place, prompt }, present(prompt.problem, 'problem'));
    }
    return { lines: this.#lines };
  }

  /** Somebody else has the part. */
  cancel(): void {
    for (const cancel of this.#cancels) cancel();
  }

  async #makeText(
    encoded: EncodedPrompt,
    sample: number,
  ): Promise<readonly [EncodedPrompt, GenerationResult | undefined, number]> {
    const { scheduler, job, options, onText } = this.#maker;
    const prompt = options.samples === undefined ? encoded : { ...encoded, sample };
    const place = encoded.index * job.samples + sample;
    const done = (newTokens: number) => {
      this.open--;
      onText(newTokens);
    };
    if (encoded.problem) {
      done(0);
      return [prompt, undefined, place];
    }
    const request = requestOf(encoded, sample, job, options);
    const watches = (encoded.own?.stopStrings ?? options.stopStrings).length > 0;
    const stops = watches ? stopsAfter(job, { promptOf: () => encoded }, options)(request) : undefined;
    const submission = scheduler.submit(stops ? { ...request, stopsAfter: stops } : request);
    this.#cancels.push(() => submission.cancel());
    const result = await submission.result;
    done(result.tokens.length);
    return [prompt, result, place];
  }
}
