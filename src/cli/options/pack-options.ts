// Options of `pack`.

import type { PackSettings } from '../../pack/scheme.js';
import { badOption, type OptionReader } from './option-reader.js';
import { readSharedOptions } from './shared-options.js';
import type { SharedOptions } from './shared-settings.js';
import { PACK_OPTIONS } from './tables/pack.js';

export interface PackCommandOptions extends SharedOptions {
  readonly folder: string;
  readonly settings: PackSettings;
  readonly textFile: string | undefined;
  readonly json: boolean;
}

const MOST_GPUS = 64;
const MOST_GROUP = 65_536;

/** Throws BAD_OPTION, UNSUPPORTED or NO_DEVICE. */
export function readPackOptions(options: OptionReader): PackCommandOptions {
  const folder = options.path('output');
  if (folder === undefined) throw badOption('--output is missing: give a folder for the store');
  const weights = options.choice('weights', PACK_OPTIONS.weights.choices);
  if (weights === undefined) throw badOption('--weights is missing: give int8, int4 or fp8');
  if (weights === 'fp8' && options.has('group_size')) {
    throw badOption(
      '--group_size is for int8 and int4, and --weights is fp8, which has a scale per row: leave it out',
    );
  }
  return {
    ...readSharedOptions(options),
    folder,
    settings: { weights, groupSize: readGroupSize(options), gpus: options.count('gpus', 1, MOST_GPUS) ?? 1 },
    textFile: options.path('text_file'),
    json: options.flag('json'),
  };
}

function readGroupSize(options: OptionReader): number | 'channel' | undefined {
  if (options.text('group_size') === 'channel') return 'channel';
  const size = options.count('group_size', 8, MOST_GROUP);
  if (size === undefined || size % 8 === 0) return size;
  throw badOption(`--group_size is ${size}: give a multiple of 8, such as 32, 64 or 128, or channel`);
}
