// Options of `batch`.

import type { ServedOptions } from '../served.js';
import { badOption, type OptionReader } from './option-reader.js';
import { readSharedOptions } from './shared-options.js';

export interface BatchOptions extends ServedOptions {
  readonly input: string;
  readonly output: string;
  readonly errors: string | undefined;
  /** Go on with what the files have. */
  readonly resume: boolean;
  /** Begin anew, whatever they have. */
  readonly overwrite: boolean;
  readonly generationConfig: boolean;
}

/** Throws BAD_OPTION, UNSUPPORTED or NO_DEVICE. */
export function readBatchOptions(options: OptionReader): BatchOptions {
  options.exclude('resume', 'overwrite', 'results are either gone on with or made anew');
  const [input, output] = [options.path('input'), options.path('output')];
  if (input === undefined) throw badOption('--input is missing: give a file of requests, one a line');
  if (output === undefined) throw badOption('--output is missing: give a file for results');
  return {
    ...readSharedOptions(options),
    input,
    output,
    errors: options.path('errors'),
    resume: options.flag('resume'),
    overwrite: options.flag('overwrite'),
    servedNames: options.list('served_model_name'),
    toolParser: options.text('tool_parser'),
    reasoningParser: options.text('reasoning_parser'),
    generationConfig: options.switch('generation_config') ?? true,
    batchSize: options.count('batch_size'),
    maxContext: options.count('max_context'),
    cacheTokens: options.count('cache_tokens'),
  };
}
