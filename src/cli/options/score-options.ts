// Options of `score`.

import { badOption, type OptionReader } from './option-reader.js';
import { readSharedOptions } from './shared-options.js';
import type { SharedOptions } from './shared-settings.js';

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
