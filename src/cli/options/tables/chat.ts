// Options of `chat`.

import { SAMPLING_OPTIONS } from './sampling.js';
import { MAX_CONTEXT, SHARED_OPTIONS } from './shared.js';
import type { OptionTable } from './spec.js';

const CHAT = 'Chat';
/** A conversation is one text at a time, on one device, and its words need a tokenizer. */
const {
  report: _report,
  trace: _trace,
  dummy_weights: _dummy,
  virtual_devices: _virtual,
  num_gpus: _gpus,
  gather: _gather,
  ...SHARED
} = SHARED_OPTIONS;
const { num_samples: _samples, ...SAMPLING } = SAMPLING_OPTIONS;

export const CHAT_OPTIONS = {
  prompt: { kind: 'list', short: 'p', group: CHAT, describe: 'say this first; may be repeated' },
  system: { kind: 'value', group: CHAT, describe: 'a system message before all others' },
  max_new_tokens: {
    kind: 'value',
    short: 'n',
    group: CHAT,
    describe: 'tokens of an answer',
    default: 'what the context has left',
  },
  max_context: {
    ...MAX_CONTEXT,
    describe: 'tokens of the whole conversation that keys and values are to have room for',
    default: "the model's context, at most 4096, or what of that fits",
  },
  ...SAMPLING,
  generation_config: {
    ...SAMPLING.generation_config,
    default: 'true; --generation_config=false leaves it out',
  },
  ...SHARED,
} as const satisfies OptionTable;

export const CHAT_EXAMPLES = [
  ['zero-inference chat FOLDER', 'a conversation; /help says what else can be typed'],
  ['zero-inference chat FOLDER --system "Be brief." --temperature 0.7 --seed 1', 'the same each time'],
  ['zero-inference chat FOLDER --nvme_offload_path . -n 200', 'weights on the drive, short answers'],
  ['printf "Who are you?\\nSince when?\\n" | zero-inference chat FOLDER', 'a line is a message'],
] as const;
