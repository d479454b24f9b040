// Options of `generate`.

import type { OperatingError } from '../../../offload/index.js';
import type { PromptsFormat } from '../generation/prompt-list.js';
import { badOption, type OptionReader, type OptionTable } from './option-reader.js';
import { readSamplingOptions, SAMPLING_OPTIONS, type SamplingOptions } from './sampling-options.js';
import { MAX_CONTEXT, readSharedOptions, SHARED_OPTIONS, type SharedOptions } from './shared-options.js';

const GENERATION = 'Generation';
const BENCHMARK = 'Benchmark';
/** Built-in prompts are repeated that often; far more than any memory holds. */
const MOST_SEQUENCES = 65_536;

export const GENERATE_OPTIONS = {
  prompt: { kind: 'list', group: GENERATION, describe: 'text to continue; may be repeated' },
  prompts_file: {
    kind: 'value',
    group: GENERATION,
    describe:
      'a prompt a line, or JSON Lines with "prompt", "messages" or "prompt_token_ids", and what a line wants for itself; ' +
      '- is standard input',
  },
  prompts_format: {
    kind: 'value',
    group: GENERATION,
    describe: 'text or jsonl',
    default: 'auto: jsonl by its name or first line',
  },
  chat: {
    kind: 'flag',
    group: GENERATION,
    describe: "each prompt is a user's message, put into the checkpoint's chat template",
  },
  system: { kind: 'value', group: GENERATION, describe: 'with --chat: a system message before it' },
  batch_size: {
    kind: 'value',
    group: GENERATION,
    describe: 'texts that each device makes at once; auto: as many as there are and fit',
    default: '1',
  },
  max_new_tokens: { kind: 'value', group: GENERATION, describe: 'new tokens per text', default: '100' },
  max_context: MAX_CONTEXT,
  ignore_eos: { kind: 'flag', group: GENERATION, describe: 'go on after an end-of-text token' },
  output: {
    kind: 'value',
    group: GENERATION,
    describe: 'write a JSON line per text to this file, as each is finished; - for stdout',
  },
  resume: {
    kind: 'flag',
    group: GENERATION,
    describe: 'go on with the results in --output: only what is missing there is made',
  },
  overwrite: {
    kind: 'flag',
    group: GENERATION,
    describe: 'begin --output anew: without this or --resume, results that are there are not touched',
  },
  benchmark: { kind: 'flag', group: BENCHMARK, describe: 'repeat the run and print how fast it was' },
  warmup_cycles: { kind: 'value', group: BENCHMARK, describe: 'runs before the timed ones', default: '1' },
  cycles: { kind: 'value', group: BENCHMARK, describe: 'timed runs', default: '5' },
  ...SAMPLING_OPTIONS,
  ...SHARED_OPTIONS,
} as const satisfies OptionTable;

export const GENERATE_EXAMPLES = [
  ['zero-inference --name FOLDER --prompt "Once upon a time"', 'what fits rests in DRAM, the rest streams'],
  ['zero-inference --name FOLDER --cpu_offload --batch_size 8', 'all weights in DRAM'],
  ['zero-inference --name FOLDER --nvme_offload_path . --benchmark', 'all weights on the drive, timed'],
  [
    'zero-inference --name FOLDER --dram_memory 4GiB --prompts_file in.jsonl --output out.jsonl',
    'many prompts',
  ],
  [
    'zero-inference --name FOLDER --prompts_file in.jsonl --output out.jsonl --batch_size 32 --resume',
    'the rest of them',
  ],
  [
    'zero-inference --name FOLDER --prompts_file in.jsonl --output out.jsonl --batch_size 32 --num_gpus 4',
    'on four GPUs',
  ],
  [
    `echo '{"prompt": "Once", "temperature": 0.8, "max_tokens": 50, "id": "a1"}' | zero-inference --name FOLDER --prompts_file - --output out.jsonl`,
    'prompts by a pipe, with wishes of their own',
  ],
  [
    'zero-inference --name FOLDER --chat --prompt "Who are you?" --temperature 0.7 --top_p 0.9',
    'a chat, drawn',
  ],
  [
    'zero-inference --name configs/models/llama-4b.json --dummy_weights --benchmark',
    'a shape, with random weights',
  ],
] as const;

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
  readonly maxContext: number | undefined;
  readonly ignoreEos: boolean;
  readonly output: string | undefined;
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
  const shared = readSharedOptions(options);
  const autoBatch = options.text('batch_size') === 'auto';
  return {
    ...shared,
    ...readSamplingOptions(options),
    prompts: options.list('prompt'),
    promptsFile: options.path('prompts_file'),
    promptsFormat: options.choice('prompts_format', ['auto', 'text', 'jsonl']) ?? 'auto',
    chat: options.flag('chat') ? { system: options.text('system') } : undefined,
    batchSize: autoBatch
      ? 1
      : (options.count('batch_size', 1, MOST_SEQUENCES) ?? shared.dsConfig?.batchSize ?? 1),
    autoBatch,
    maxContext: options.count('max_context'),
    maxNewTokens: options.count('max_new_tokens') ?? 100,
    ignoreEos: options.flag('ignore_eos'),
    output: options.path('output'),
    resume: options.flag('resume'),
    overwrite: options.flag('overwrite'),
    benchmark: benchmark
      ? { warmupCycles: options.count('warmup_cycles', 0) ?? 1, cycles: options.count('cycles') ?? 5 }
      : undefined,
  };
}

/** Before weights of gigabytes are made for a text that nothing can read. Throws BAD_OPTION. */
export function refuseTextForShape(options: OptionReader, names: readonly string[]): void {
  if (!options.has('dummy_weights')) return;
  const given = names.find((name) => options.has(name));
  if (given !== undefined) throw noTokenizer(`--${given} is given`);
}

/** Of a shape, whose random weights have no tokenizer beside them. */
export function noTokenizer(what: string): OperatingError {
  return badOption(
    `${what}, but a shape with --dummy_weights has no tokenizer: leave it out, or give --prompts_file with lines of ` +
      '"prompt_token_ids"',
  );
}
