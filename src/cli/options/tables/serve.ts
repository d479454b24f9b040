// Options of `serve`.

import { CALL_PARSERS, REASONING_PARSERS } from '../../../tools/parser-names.js';
import { SAMPLING_OPTIONS } from './sampling.js';
import { MAX_CONTEXT, SHARED_OPTIONS } from './shared.js';
import type { OptionTable } from './spec.js';

const SERVER = 'Server';
const QUEUE = 'Queue';
const LIMITS = 'Limits';
const { report: _report, trace: _trace, dummy_weights: _dummy, ...SHARED } = SHARED_OPTIONS;

export const SERVE_OPTIONS = {
  host: {
    kind: 'value',
    group: SERVER,
    describe: 'address to listen at; beyond this machine (0.0.0.0) a key is needed',
    default: '127.0.0.1',
  },
  port: {
    kind: 'value',
    group: SERVER,
    describe: 'port to listen at; 0 for one that is free',
    default: '8080',
  },
  api_key: {
    kind: 'list',
    group: SERVER,
    describe:
      'a key that clients must send; may be repeated, and ZERO_INFERENCE_API_KEY holds one unseen by other users',
  },
  served_model_name: {
    kind: 'list',
    group: SERVER,
    describe: 'what clients call the model; may be repeated',
    default: 'what --name says',
  },
  max_wait: {
    kind: 'value',
    group: SERVER,
    describe:
      'seconds that a request waits for others where none is being made, so that they share the first pass',
    default: '0',
  },
  drain_seconds: {
    kind: 'value',
    group: SERVER,
    describe:
      'how long answers that are being made are waited for at Ctrl-C or SIGTERM; a second one ends at once',
    default: '30',
  },
  data: {
    kind: 'value',
    names: 'folder',
    group: SERVER,
    describe: 'folder for files and batches, which a server that is started again goes on with',
    default: 'no files and batches',
  },
  log_requests: {
    kind: 'flag',
    group: SERVER,
    describe: 'write bodies of requests to the log, prompts among them, which it does not have otherwise',
  },
  tool_parser: {
    kind: 'value',
    group: SERVER,
    describe: `how the model writes calls of tools: auto takes it from the chat template, none looks for no calls; or ${CALL_PARSERS.join(', ')}`,
    default: 'auto',
  },
  reasoning_parser: {
    kind: 'value',
    group: SERVER,
    describe: `how the model marks its reasoning: auto takes it from the chat template, none leaves it in the text; or ${REASONING_PARSERS.join(', ')}`,
    default: 'auto',
  },
  queue: {
    kind: 'value',
    group: QUEUE,
    describe:
      'in place of --name: hand what is asked, batches above all, to the workers at this Redis server, as redis://host:6379; ' +
      'ZI_QUEUE says it as well, where a password is in it',
  },
  job: {
    kind: 'value',
    group: QUEUE,
    describe: 'what workers call it, with --job; servers may share one',
    default: 'default',
  },
  queue_memory: {
    kind: 'value',
    group: QUEUE,
    describe: 'requests that have no answer yet may take so much of the Redis server; others wait',
    default: '1GiB',
  },
  generation_config: {
    ...SAMPLING_OPTIONS.generation_config,
    describe:
      "where a request says nothing, draw tokens with the values of the model's generation_config.json",
    default: 'true; --generation_config=false leaves it out',
  },
  batch_size: {
    kind: 'value',
    group: LIMITS,
    describe: 'texts made at once; others wait',
    default: '16, or as many as fit',
  },
  max_context: {
    ...MAX_CONTEXT,
    group: LIMITS,
    default: "the model's context, at most 4096, or what of that fits",
  },
  cache_tokens: {
    kind: 'value',
    group: LIMITS,
    describe: 'tokens of all texts whose keys and values are kept at once, beginnings that texts share once',
    default: 'as many as up to four of the longest texts have',
  },
  max_requests: { kind: 'value', group: LIMITS, describe: 'requests that are open at once', default: '1024' },
  max_client_requests: {
    kind: 'value',
    group: LIMITS,
    describe: 'the same of one client, by its key',
    default: 'max_requests',
  },
  max_open_tokens: {
    kind: 'value',
    group: LIMITS,
    describe: 'tokens that open requests may come to, prompts and texts together',
    default: 'no limit',
  },
  max_open_bytes: { kind: 'value', group: LIMITS, describe: 'bytes of open requests', default: '256MiB' },
  max_body: {
    kind: 'value',
    group: LIMITS,
    describe: 'bytes of one request',
    default: '16 a token of context, 1MiB at least',
  },
  ...SHARED,
} as const satisfies OptionTable;

export const SERVE_EXAMPLES = [
  ['zero-inference serve FOLDER', "OpenAI's API at http://127.0.0.1:8080/v1"],
  [
    'zero-inference serve FOLDER --nvme_offload_path . --batch_size 64 --max_wait 2',
    'a pass is dear: let it fill',
  ],
  ['zero-inference serve FOLDER --data ~/batches', 'with /v1/files and /v1/batches'],
  [
    'zero-inference serve --queue redis://head:6379 --served_model_name big --data ~/batches',
    'without a model: batches are answered by workers that come and go',
  ],
  ['ZERO_INFERENCE_API_KEY=… zero-inference serve FOLDER --host 0.0.0.0', 'for other machines too'],
] as const;
