// A job as it is put into a queue and taken out again: how its texts are made, and whether a worker makes the same ones.

import { z } from 'zod';
import { OperatingError } from '../../../offload/index.js';
import type { JobRecord, JobSizes } from '../../queue/record.js';
import { type Job, longestPrompt } from '../generation/job.js';
import type { GenerateOptions } from '../options/generate-options.js';
import type { WorkerOptions } from '../options/queue-options.js';
import { firstDifference, type OtherSetting, type RunSettings } from '../results/file.js';
import { otherWeights, weightsFromJson } from '../results/weight-record.js';
import { packageVersion } from '../version.js';

const GENERATION = z.strictObject({
  max_new_tokens: z.int().positive(),
  max_context: z.int().positive().nullable(),
  ignore_eos: z.boolean(),
  stop: z.array(z.string()),
  num_samples: z.int().positive().nullable(),
  chat: z.boolean(),
  system: z.string().nullable(),
  needs_tokenizer: z.boolean(),
  needs_template: z.boolean(),
  dtype: z.string().nullable(),
  sampling: z.strictObject({
    temperature: z.number(),
    topK: z.number(),
    topP: z.number(),
    minP: z.number(),
    repetitionPenalty: z.number(),
    seed: z.number(),
  }),
});

export type Generation = z.infer<typeof GENERATION>;

const OPTIONS_OF_WORKERS: ReadonlySet<string> = new Set(['compute_dtype', 'kv_dtype', 'dtype']);

/** What only the machine that makes the texts knows; the first worker says it for all. */
const COMPUTED = ['compute_dtype', 'kv_dtype'] as const;

export function generationOf(
  options: GenerateOptions,
  needs: { readonly tokenizer: boolean; readonly chatTemplate: boolean },
): Generation {
  return {
    max_new_tokens: options.maxNewTokens,
    max_context: options.maxContext ?? null,
    ignore_eos: options.ignoreEos,
    stop: [...options.stopStrings],
    num_samples: options.samples ?? null,
    chat: options.chat !== undefined,
    system: options.chat?.system ?? null,
    needs_tokenizer: needs.tokenizer,
    needs_template: needs.chatTemplate,
    dtype: options.packed ?? null,
    sampling: { ...options.sampling },
  };
}

export function sizesOf(job: Job): JobSizes {
  const { promptTokens, newTokens, penalised } = job.sizes;
  let [context, longestNew] = [1, 1];
  for (const [index, tokens] of promptTokens.entries()) {
    const more = newTokens[index] ?? 0;
    if (tokens < 0) continue;
    context = Math.max(context, tokens + more);
    longestNew = Math.max(longestNew, more);
  }
  return {
    prompts: job.prompts.length,
    samples: job.samples,
    contextTokens: context,
    promptTokens: Math.max(1, longestPrompt(job)),
    newTokens: longestNew,
    history: penalised,
  };
}

/** Settings without what only a worker knows, and that by itself. */
export function partSettings(settings: RunSettings): { settings: RunSettings; computed: RunSettings } {
  const entries = Object.entries(settings);
  const isComputed = ([name]: readonly [string, unknown]) => COMPUTED.some((one) => one === name);
  return {
    settings: Object.fromEntries(entries.filter((entry) => !isComputed(entry))),
    computed: Object.fromEntries(entries.filter(isComputed)),
  };
}

/** How a worker makes the texts of a job. Throws QUEUE_FAILED where the record is no such thing. */
export function readGeneration({ generation }: JobRecord): Generation {
  const parsed = GENERATION.safeParse(generation);
  if (parsed.success) return parsed.data;
  throw new OperatingError(
    'QUEUE_FAILED',
    'the job in the queue does not say how its texts are made: submit it again under another --job',
  );
}

/** The options of `generate` that would make the same texts on this worker. */
export function optionsOf(worker: WorkerOptions, generation: Generation): GenerateOptions {
  const { sampling, stop, num_samples: samples, chat, system } = generation;
  return {
    ...worker,
    sampling,
    given: sampling,
    generationConfig: false,
    temperatureGiven: sampling.temperature !== 0,
    idle: undefined,
    seedGiven: true,
    samples: samples ?? undefined,
    stopStrings: stop,
    prompts: [],
    promptsFile: undefined,
    promptsFormat: 'auto',
    chat: chat ? { system: system ?? undefined } : undefined,
    batchSize: worker.batchSize ?? 1,
    autoBatch: worker.batchSize === undefined,
    maxNewTokens: generation.max_new_tokens,
    lengthGiven: true,
    maxContext: generation.max_context ?? undefined,
    ignoreEos: generation.ignore_eos,
    output: undefined,
    share: undefined,
    resume: false,
    overwrite: false,
    benchmark: undefined,
  };
}

/** A job of that name that says something else. */
export function otherJob(job: string, other: OtherSetting, mend: string): OperatingError {
  return new OperatingError(
    'BAD_OPTION',
    `job ${job} is in the queue already, with another ${other.name} (${other.theirs} there, ${other.ours} now): ${mend}`,
  );
}

/** Throws BAD_OPTION where the job is that of another version. */
export function checkVersion({ version }: JobRecord): void {
  const own = packageVersion();
  if (version !== own) throw otherWorker('version', version, own, 'install the one of the job');
}

/** Before the model is opened. Throws BAD_OPTION with what is another one. */
export function checkProgram(record: JobRecord, { dtype }: Generation, worker: WorkerOptions): void {
  checkVersion(record);
  const packed = worker.packed ?? null;
  if (packed !== dtype) throw otherWorker('--dtype', dtype ?? 'none', packed ?? 'none', 'give the same');
}

/** Throws BAD_OPTION, with what differs, where this worker would make other texts. */
export function checkModel({ settings }: JobRecord, own: RunSettings): void {
  const other = firstDifference(settings, own, ['weights', ...COMPUTED]);
  if (other) {
    throw otherWorker(
      other.name,
      other.theirs,
      other.ours,
      'give --name the model that the job was submitted with',
    );
  }
  checkWeights(settings, own);
}

/** Throws BAD_OPTION. */
export function checkWeights(job: RunSettings, own: RunSettings): void {
  const [theirs, ours] = [weightsFromJson(job.weights), weightsFromJson(own.weights)];
  const difference = theirs && ours ? otherWeights(theirs, ours) : 'the job does not say which it has';
  if (difference === undefined) return;
  throw new OperatingError(
    'BAD_OPTION',
    `this worker has other weights than the job: ${difference}; give --name the model that the job was submitted with`,
  );
}

/** Throws BAD_OPTION where the first worker of the job computes otherwise. */
export function checkComputed(first: RunSettings, own: RunSettings, except: readonly string[] = []): void {
  const other = firstDifference(first, own, except);
  if (!other) return;
  const mend = OPTIONS_OF_WORKERS.has(other.name)
    ? `give --${other.name}, and the device, as its first worker`
    : other.name === 'max_context'
      ? 'start the server with --max_context'
      : 'give --name the model that its first worker has';
  throw otherWorker(other.name, other.theirs, other.ours, mend);
}

function otherWorker(name: string, theirs: string, ours: string, mend: string): OperatingError {
  return new OperatingError(
    'BAD_OPTION',
    `this worker has another ${name} than the job (${theirs} there, ${ours} here): ${mend}`,
  );
}
