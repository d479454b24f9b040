// Options of `merge`, and the folder after it.

import { badOption, type OptionReader } from './option-reader.js';

export interface MergeOptions {
  readonly folder: string;
  readonly output: string;
  readonly overwrite: boolean;
}

/** Throws BAD_OPTION. */
export function readMergeOptions(options: OptionReader, words: readonly string[]): MergeOptions {
  const [folder, extra] = words;
  if (folder === undefined)
    throw badOption('merge needs the folder of the shares, as in merge shares --output out.jsonl');
  if (extra !== undefined) throw badOption(`'${extra}' is one word too many: merge takes one folder`);
  const output = options.path('output');
  if (output === undefined) throw badOption('merge writes to --output: add it');
  return { folder, output, overwrite: options.flag('overwrite') };
}
