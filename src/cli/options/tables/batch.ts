// Options of `batch`.

import { SERVE_OPTIONS } from './serve.js';
import { SHARED_OPTIONS } from './shared.js';
import type { OptionTable } from './spec.js';

const BATCH = 'Batch';
const { trace: _trace, dummy_weights: _dummy, ...SHARED } = SHARED_OPTIONS;
const {
  served_model_name,
  tool_parser,
  reasoning_parser,
  generation_config,
  batch_size,
  max_context,
  cache_tokens,
} = SERVE_OPTIONS;

export const BATCH_OPTIONS = {
  input: {
    kind: 'value',
    short: 'i',
    names: 'file',
    group: BATCH,
    describe: 'JSON lines of requests, as /v1/batches takes them: custom_id, method, url, body',
  },
  output: {
    kind: 'value',
    short: 'o',
    names: 'file',
    group: BATCH,
    describe: 'a line for each request as it is answered',
  },
  errors: {
    kind: 'value',
    names: 'file',
    group: BATCH,
    describe: 'lines of requests that cannot be answered',
    default: 'with the others',
  },
  resume: { kind: 'flag', group: BATCH, describe: 'go on with what --output and --errors have' },
  overwrite: { kind: 'flag', group: BATCH, describe: 'begin anew, whatever they have' },
  served_model_name: {
    ...served_model_name,
    group: BATCH,
    describe: 'what requests call the model; may be repeated',
  },
  tool_parser: { ...tool_parser, group: BATCH },
  reasoning_parser: { ...reasoning_parser, group: BATCH },
  generation_config: { ...generation_config, group: BATCH },
  batch_size: { ...batch_size, group: BATCH, describe: 'requests computed together' },
  max_context: { ...max_context, group: BATCH },
  cache_tokens: { ...cache_tokens, group: BATCH },
  ...SHARED,
} as const satisfies OptionTable;

export const BATCH_EXAMPLES = [
  [
    'zero-inference batch FOLDER --input in.jsonl --output out.jsonl',
    "OpenAI's batch files, without a server",
  ],
  [
    'zero-inference batch FOLDER -i in.jsonl -o out.jsonl --errors bad.jsonl --resume',
    'goes on after an interruption: every request has one line',
  ],
] as const;
