// Options of `score`.

import { badOption, type OptionReader, type OptionTable } from './option-reader.js';
import { readSharedOptions, SHARED_OPTIONS, type SharedOptions } from './shared-options.js';

const TEXT = 'Text';

export const SCORE_OPTIONS = {
  text_file: { kind: 'value', group: TEXT, describe: 'UTF-8 text to score' },
  token_ids: { kind: 'value', group: TEXT, describe: 'JSON list of token ids to score instead' },
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

export type ScoreInput =
  | { readonly kind: 'text'; readonly path: string }
  | { readonly kind: 'ids'; readonly path: string };

export interface ScoreCommandOptions extends SharedOptions {
  readonly input: ScoreInput;
  readonly context: number | undefined;
  /** Undefined: as many as the memory holds, up to a bound. */
  readonly batchSize: number | undefined;
  readonly json: boolean;
}

/** Throws BAD_OPTION, UNSUPPORTED or NO_DEVICE. */
export function readScoreOptions(options: OptionReader): ScoreCommandOptions {
  options.exclude('text_file', 'token_ids', 'give the text in one way');
  const [text, ids] = [options.path('text_file'), options.path('token_ids')];
  const shared = readSharedOptions(options);
  if (text !== undefined && options.has('dummy_weights')) {
    throw badOption(
      '--text_file is given, but a shape with --dummy_weights has no tokenizer: give --token_ids instead',
    );
  }
  if (text === undefined && ids === undefined) {
    throw badOption('there is nothing to score: give --text_file or --token_ids');
  }
  return {
    ...shared,
    input: text === undefined ? { kind: 'ids', path: ids ?? '' } : { kind: 'text', path: text },
    context: options.count('context', 2),
    batchSize: options.count('batch_size') ?? shared.dsConfig?.batchSize,
    json: options.flag('json'),
  };
}
