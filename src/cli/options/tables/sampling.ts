// Options that say how tokens are drawn, and where texts end.

import type { OptionTable } from './spec.js';

const SAMPLING = 'Sampling';

export const SAMPLING_OPTIONS = {
  generation_config: {
    kind: 'flag',
    group: SAMPLING,
    describe:
      "choose tokens as the model's generation_config.json says and transformers would: do_sample, temperature, top_k " +
      '(50 where it says none), top_p, min_p, repetition_penalty, max_new_tokens, stop_strings; options win',
    default: 'false: of the file, only the ids that end a text',
  },
  temperature: {
    kind: 'value',
    group: SAMPLING,
    describe: 'draw tokens, the more freely the higher',
    default: '0: always the likeliest',
  },
  top_k: { kind: 'value', group: SAMPLING, describe: 'draw from the k likeliest tokens', default: '0: all' },
  top_p: {
    kind: 'value',
    group: SAMPLING,
    describe: 'draw from the likeliest tokens that together have this probability',
    default: '1: all',
  },
  min_p: {
    kind: 'value',
    group: SAMPLING,
    describe: 'draw from tokens at least this many times as likely as the likeliest',
    default: '0: all',
  },
  repetition_penalty: {
    kind: 'value',
    group: SAMPLING,
    describe: 'above 1, tokens of the prompt and of the text so far become less likely',
    default: '1: none',
  },
  seed: {
    kind: 'value',
    group: SAMPLING,
    describe: 'the same seed gives the same text, whatever the batch or the placement',
    default: 'another one each time',
  },
  num_samples: { kind: 'value', group: SAMPLING, describe: 'texts per prompt', default: '1' },
  stop: { kind: 'list', group: SAMPLING, describe: 'end a text before this string; may be repeated' },
} as const satisfies OptionTable;
