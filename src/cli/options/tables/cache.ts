// Options of `cache`.

import { LOG_LEVEL } from './log-level.js';
import type { OptionTable } from './spec.js';

const CACHE = 'Cache';

/** What can be done with it. */
export const CACHE_ACTIONS = ['list', 'remove'] as const;

export const CACHE_OPTIONS = {
  folder: {
    kind: 'list',
    names: 'folder',
    group: CACHE,
    describe: 'look for copies and random weights in this folder as well; may be repeated',
  },
  yes: { kind: 'flag', group: CACHE, describe: 'remove without asking' },
  dry_run: { kind: 'flag', group: CACHE, describe: 'only say what would be removed' },
  json: { kind: 'flag', group: CACHE, describe: 'print what is there, or was removed, as JSON' },
  log_level: LOG_LEVEL,
} as const satisfies OptionTable;

export const CACHE_EXAMPLES = [
  ['zero-inference cache', 'what models, copies and random weights take, and when they were last used'],
  ['zero-inference cache remove bigscience/bloom-560m', 'a model, after asking'],
  [
    'zero-inference cache remove bigscience/bloom-560m@main --yes',
    'one revision, and what no other has of it',
  ],
  ['zero-inference cache remove bigscience/bloom-560m@incomplete', 'what was half downloaded'],
  ['zero-inference cache remove /mnt/nvme/zero-inference-0123456789abcdef --dry_run', 'a copy, by its path'],
] as const;
