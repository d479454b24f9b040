// Options of `score`.

import { SHARED_OPTIONS } from './shared.js';
import type { OptionTable } from './spec.js';

const TEXT = 'Text';

export const SCORE_OPTIONS = {
  text_file: { kind: 'value', names: 'file', group: TEXT, describe: 'UTF-8 text to score' },
  token_ids: {
    kind: 'value',
    names: 'file',
    group: TEXT,
    describe: 'JSON list of token ids to score instead',
  },
  context: {
    kind: 'value',
    group: TEXT,
    describe: 'tokens of a window; the text is cut into windows',
    default: "the model's context, at most 2048",
  },
  batch_size: { kind: 'value', group: TEXT, describe: 'windows that run together', default: 'up to 8' },
  json: { kind: 'flag', group: TEXT, describe: 'print {"nll": …, "perplexity": …, "tokens": …}' },
  ...SHARED_OPTIONS,
} as const satisfies OptionTable;

export const SCORE_EXAMPLES = [
  ['zero-inference score --name FOLDER --text_file book.txt', 'with as much in DRAM as fits'],
  [
    'zero-inference score --name FOLDER --token_ids ids.json --nvme_offload_path . --json',
    'all weights on the drive',
  ],
] as const;
