// Options of `submit`, `worker`, `status` and `collect`, which share a queue.

import { GENERATE_OPTIONS } from './generate.js';
import { LOG_LEVEL } from './log-level.js';
import { SAMPLING_OPTIONS } from './sampling.js';
import { SHARED_OPTIONS } from './shared.js';
import type { OptionTable } from './spec.js';

const QUEUE = 'Queue';

const ADDRESS = {
  queue: {
    kind: 'value',
    group: QUEUE,
    describe:
      'a Redis server, as redis://host:6379, or rediss:// for TLS; ZI_QUEUE says it as well, where a password is in it',
  },
  job: { kind: 'value', group: QUEUE, describe: 'name of the job on that server', default: 'default' },
} as const satisfies OptionTable;

const ROOM = {
  kind: 'value',
  group: QUEUE,
  default: '1GiB',
} as const;

const { name, revision, dummy_weights, dtype, log_level } = SHARED_OPTIONS;
const { prompts_file, prompts_format, chat, system, max_new_tokens, max_context, ignore_eos } =
  GENERATE_OPTIONS;

export const SUBMIT_OPTIONS = {
  ...ADDRESS,
  queue_memory: {
    ...ROOM,
    describe: 'prompts that no worker has taken may take so much of the server; then submit waits',
  },
  prompts_file,
  prompts_format,
  chat,
  system,
  max_new_tokens,
  max_context,
  ignore_eos,
  ...SAMPLING_OPTIONS,
  name,
  revision,
  dummy_weights,
  dtype,
  log_level,
} as const satisfies OptionTable;

export const WORKER_OPTIONS = {
  ...ADDRESS,
  queue_memory: {
    ...ROOM,
    describe: 'results that nobody has collected may take so much of the server; then the worker waits',
  },
  lease_seconds: {
    kind: 'value',
    group: QUEUE,
    describe: 'so long after this worker was last heard of, others take its prompts',
    default: '30',
  },
  batch_size: {
    kind: 'value',
    choices: ['auto'],
    group: QUEUE,
    describe: 'texts that each device makes at once; auto: as many as fit',
    default: 'auto',
  },
  ...SHARED_OPTIONS,
} as const satisfies OptionTable;

export const STATUS_OPTIONS = {
  ...ADDRESS,
  json: { kind: 'flag', group: QUEUE, describe: 'print it as JSON' },
  log_level: LOG_LEVEL,
} as const satisfies OptionTable;

export const COLLECT_OPTIONS = {
  ...ADDRESS,
  output: {
    kind: 'value',
    names: 'file',
    group: QUEUE,
    describe: 'write a JSON line per text to this file, as each arrives, until all are there',
  },
  resume: { kind: 'flag', group: QUEUE, describe: 'go on with the results in --output' },
  overwrite: { kind: 'flag', group: QUEUE, describe: 'begin --output anew' },
  log_level: LOG_LEVEL,
} as const satisfies OptionTable;

export const SUBMIT_EXAMPLES = [
  [
    'zero-inference submit --queue redis://head:6379 --name FOLDER --prompts_file in.jsonl --max_new_tokens 200',
    'put prompts into the queue; workers and collect may run already',
  ],
] as const;

export const WORKER_EXAMPLES = [
  ['zero-inference worker --queue redis://head:6379 --name FOLDER', 'make texts until the job is done'],
  [
    'zero-inference worker --queue redis://head:6379 --name FOLDER --num_gpus 4 --batch_size 64 --job night',
    'on four GPUs, for the job of that name',
  ],
] as const;

export const STATUS_EXAMPLES = [
  ['zero-inference status --queue redis://head:6379', 'how far the job is, and who works on it'],
] as const;

export const COLLECT_EXAMPLES = [
  [
    'zero-inference collect --queue redis://head:6379 --output out.jsonl --resume',
    'write results until all are there',
  ],
] as const;
