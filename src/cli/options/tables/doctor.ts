// Options of `doctor`.

import { LOG_LEVEL } from './log-level.js';
import type { OptionTable } from './spec.js';

const DOCTOR = 'Doctor';

export const DOCTOR_OPTIONS = {
  path: {
    kind: 'value',
    names: 'file',
    group: DOCTOR,
    describe:
      'measure the drive of this folder with a temporary file of at most 512 MiB, or by reading this file',
  },
  save: {
    kind: 'value',
    names: 'file',
    group: DOCTOR,
    describe: 'write what was measured to this file, for plan --machine',
  },
  json: { kind: 'flag', group: DOCTOR, describe: 'print the findings as JSON' },
  log_level: LOG_LEVEL,
} as const satisfies OptionTable;

export const DOCTOR_EXAMPLES = [
  ['$0 doctor', 'what this machine allows, and how to mend what it does not'],
  ['$0 doctor --path /data/models --save machine.json', 'measures the drive as well, for plan --machine'],
] as const;
