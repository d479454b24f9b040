// Options of `generate`.

import { SAMPLING_OPTIONS } from './sampling.js';
import { MAX_CONTEXT, SHARED_OPTIONS } from './shared.js';
import type { OptionTable } from './spec.js';

const GENERATION = 'Generation';
const BENCHMARK = 'Benchmark';

export const GENERATE_OPTIONS = {
  prompt: { kind: 'list', short: 'p', group: GENERATION, describe: 'text to continue; may be repeated' },
  prompts_file: {
    kind: 'value',
    names: 'file',
    group: GENERATION,
    describe:
      'a prompt a line, or JSON Lines with "prompt", "messages" or "prompt_token_ids", and what a line wants for itself; ' +
      '- is standard input',
  },
  prompts_format: {
    kind: 'value',
    choices: ['auto', 'text', 'jsonl'],
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
    choices: ['auto'],
    group: GENERATION,
    describe: 'texts that each device makes at once; auto: as many as there are and fit',
    default: '1',
  },
  max_new_tokens: {
    kind: 'value',
    short: 'n',
    group: GENERATION,
    describe: 'new tokens per text',
    default: '100',
  },
  max_context: MAX_CONTEXT,
  ignore_eos: { kind: 'flag', group: GENERATION, describe: 'go on after an end-of-text token' },
  output: {
    kind: 'value',
    names: 'file',
    group: GENERATION,
    describe: 'write a JSON line per text to this file, as each is finished; - for stdout',
  },
  shard: {
    kind: 'value',
    choices: ['auto'],
    group: GENERATION,
    describe:
      'make one share of --prompts_file: I/N makes every N-th prompt from number I on, with I from 0; auto asks Slurm, and auto/N ' +
      'asks Slurm or Kubernetes which share it is. With a folder as --output, each share has a file of its own there, and merge ' +
      'puts them together. Without --seed it is 0, for all shares',
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
    'zero-inference --name FOLDER --prompts_file in.jsonl --output shares --shard 3/8 --resume',
    'the fourth of eight shares; then merge shares --output out.jsonl',
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
