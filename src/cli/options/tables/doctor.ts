// Options of `doctor`.

import { LOG_LEVEL } from './log-level.js';
import type { OptionTable } from './spec.js';

const DOCTOR = 'Doctor';

export const DOCTOR_OPTIONS = {
  path: {
    kind: 'list',
    names: 'file',
    group: DOCTOR,
    describe:
      'measure the drive of this folder with a temporary file of at most 512 MiB, or by reading this file; given several times, ' +
      'also what the drives yield together',
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
  ['$0 doctor --path /mnt/a --path /mnt/b', 'two drives, alone and together, for --nvme_offload_path'],
  ['$0 doctor --path /data/models --save machine.json', 'measures the drive as well, for plan --machine'],
] as const;
