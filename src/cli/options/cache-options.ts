// Options of `cache`, and the words after it.

import { badOption, type OptionReader } from './option-reader.js';
import { CACHE_ACTIONS } from './tables/cache.js';

export interface CacheOptions {
  /** Undefined: they are listed. */
  readonly remove: readonly string[] | undefined;
  readonly folders: readonly string[];
  readonly yes: boolean;
  readonly dryRun: boolean;
  readonly json: boolean;
}

/** Throws BAD_OPTION. */
export function readCacheOptions(options: OptionReader, words: readonly string[]): CacheOptions {
  const [action = 'list', ...names] = words;
  if (action !== 'list' && action !== 'remove') {
    throw badOption(`cache can do no '${action}': give one of ${CACHE_ACTIONS.join(', ')}`);
  }
  const removes = action === 'remove';
  if (!removes && names.length > 0) {
    throw badOption(`'${names[0]}' is nothing to list: write cache remove ${names[0]} to remove it`);
  }
  if (removes && names.length === 0) throw badOption('cache remove needs names, as cache lists them');
  for (const name of ['yes', 'dry_run']) {
    if (options.has(name) && !removes) throw badOption(`--${name} is for cache remove`);
  }
  options.exclude('yes', 'dry_run', 'either something is removed or nothing is');
  return {
    remove: removes ? names : undefined,
    folders: options.list('folder'),
    yes: options.flag('yes'),
    dryRun: options.flag('dry_run'),
    json: options.flag('json'),
  };
}
