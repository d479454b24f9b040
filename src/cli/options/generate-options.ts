// Options of `generate`.

import { statSync } from 'node:fs';
import { join } from 'node:path';
import type { OperatingError } from '../../../offload/index.js';
import { badOption, type OptionReader } from './option-reader.js';
import { readSamplingOptions, type SamplingOptions } from './sampling-options.js';
import { readShare, type Share, shareFile } from './share.js';
import { readSharedOptions } from './shared-options.js';
import type { SharedOptions } from './shared-settings.js';
import { GENERATE_OPTIONS } from './tables/generate.js';

/** Built-in prompts are repeated that often; far more than any memory holds. */
const MOST_SEQUENCES = 65_536;

export type PromptsFormat = 'auto' | 'text' | 'jsonl';

export interface GenerateOptions extends SharedOptions, SamplingOptions {
  readonly prompts: readonly string[];
  readonly promptsFile: string | undefined;
  readonly promptsFormat: PromptsFormat;
  /** Undefined without --chat. */
  readonly chat: { readonly system: string | undefined } | undefined;
  /** 1 where it is chosen once the prompts are known. */
  readonly batchSize: number;
  readonly autoBatch: boolean;
  readonly maxNewTokens: number;
  /** The command line says so. */
  readonly lengthGiven: boolean;
  readonly maxContext: number | undefined;
  readonly ignoreEos: boolean;
  readonly output: string | undefined;
  /** Undefined: all prompts. */
  readonly share: Share | undefined;
  /** Go on with what `output` has. */
  readonly resume: boolean;
  /** Begin anew, whatever `output` has. */
  readonly overwrite: boolean;
  /** Undefined without --benchmark. */
  readonly benchmark: { readonly warmupCycles: number; readonly cycles: number } | undefined;
}

/** Throws BAD_OPTION, UNSUPPORTED or NO_DEVICE. */
export function readGenerateOptions(options: OptionReader): GenerateOptions {
  options.exclude('prompt', 'prompts_file', 'give the prompts in one way');
  const benchmark = options.flag('benchmark');
  for (const name of ['warmup_cycles', 'cycles']) {
    if (options.has(name) && !benchmark) throw badOption(`--${name} is for --benchmark: add it`);
  }
  if (options.has('system') && !options.flag('chat')) throw badOption('--system is for --chat: add it');
  options.exclude('resume', 'benchmark', 'a benchmark makes every text');
  options.exclude('resume', 'overwrite', 'results are either gone on with or made anew');
  if (options.flag('overwrite') && !options.has('output')) {
    throw badOption('--overwrite is for a file of results: add --output');
  }
  if (options.flag('resume') && !options.has('output')) {
    throw badOption('--resume goes on with a file of results: add --output');
  }
  refuseTextForShape(options, ['prompt', 'chat', 'stop']);
  const share = readGenerateShare(options);
  const shared = readSharedOptions(options);
  const autoBatch = options.text('batch_size') === 'auto';
  return {
    ...shared,
    ...readSharedSampling(options, share),
    prompts: options.list('prompt'),
    promptsFile: options.path('prompts_file'),
    promptsFormat: options.choice('prompts_format', GENERATE_OPTIONS.prompts_format.choices) ?? 'auto',
    chat: options.flag('chat') ? { system: options.text('system') } : undefined,
    batchSize: autoBatch
      ? 1
      : (options.count('batch_size', 1, MOST_SEQUENCES) ?? shared.dsConfig?.batchSize ?? 1),
    autoBatch,
    maxContext: options.count('max_context'),
    maxNewTokens: options.count('max_new_tokens') ?? 100,
    lengthGiven: options.has('max_new_tokens'),
    ignoreEos: options.flag('ignore_eos'),
    output: outputOf(options, share),
    share,
    resume: options.flag('resume'),
    overwrite: options.flag('overwrite'),
    benchmark: benchmark
      ? { warmupCycles: options.count('warmup_cycles', 0) ?? 1, cycles: options.count('cycles') ?? 5 }
      : undefined,
  };
}

/** Throws BAD_OPTION. */
function readGenerateShare(options: OptionReader): Share | undefined {
  const share = readShare(options);
  if (share === undefined) return undefined;
  options.exclude('shard', 'benchmark', 'a benchmark makes every text');
  if (!options.has('prompts_file')) throw badOption('--shard is of a file of prompts: add --prompts_file');
  if (!options.has('output')) {
    throw badOption('--shard makes a share of the results, which merge puts together: add --output FOLDER');
  }
  return share;
}

/** Shares have one seed in common, so that they are the parts of one run: 0 where none is given. */
function readSharedSampling(options: OptionReader, share: Share | undefined): SamplingOptions {
  const read = readSamplingOptions(options);
  if (share === undefined || read.seedGiven) return read;
  return { ...read, sampling: { ...read.sampling, seed: 0 }, seedGiven: true };
}

/** Shares that go to a folder have names of their own there. */
function outputOf(options: OptionReader, share: Share | undefined): string | undefined {
  const output = options.path('output');
  if (share === undefined || output === undefined) return output;
  if (isFolder(output)) return join(output, shareFile(share));
  if (!output.endsWith('/')) return output;
  throw badOption(
    `--output: ${output} is not there: make the folder first, and each share has a file of its own in it`,
  );
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** Before weights of gigabytes are made for a text that nothing can read. Throws BAD_OPTION. */
export function refuseTextForShape(options: OptionReader, names: readonly string[]): void {
  if (!options.has('dummy_weights')) return;
  const given = names.find((name) => options.has(name));
  if (given !== undefined) throw noTokenizer(`--${given} is given`);
}

/** The refusal of text for a shape, whose random weights have no tokenizer beside them. */
export function noTokenizer(what: string): OperatingError {
  return badOption(
    `${what}, but a shape with --dummy_weights has no tokenizer: leave it out, or give --prompts_file with lines of ` +
      '"prompt_token_ids"',
  );
}
