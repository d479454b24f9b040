// Options of `merge`.

import { LOG_LEVEL } from './log-level.js';
import type { OptionTable } from './spec.js';

const MERGE = 'Merge';

export const MERGE_OPTIONS = {
  output: {
    kind: 'value',
    names: 'file',
    group: MERGE,
    describe: 'write all texts to this file, in the order of their prompts; --resume can go on with it',
  },
  overwrite: { kind: 'flag', group: MERGE, describe: 'replace what --output has' },
  log_level: LOG_LEVEL,
} as const satisfies OptionTable;

export const MERGE_EXAMPLES = [
  ['zero-inference merge shares --output out.jsonl', 'what several runs with --shard have made, in one file'],
] as const;
