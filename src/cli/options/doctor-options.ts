// Options of `doctor`.

import { LOG_LEVELS } from '../log.js';
import type { OptionReader, OptionTable } from './option-reader.js';

const DOCTOR = 'Doctor';

export const DOCTOR_OPTIONS = {
  path: {
    kind: 'value',
    group: DOCTOR,
    describe:
      'measure the drive of this folder with a temporary file of at most 512 MiB, or by reading this file',
  },
  save: {
    kind: 'value',
    group: DOCTOR,
    describe: 'write what was measured to this file, for plan --machine',
  },
  json: { kind: 'flag', group: DOCTOR, describe: 'print the findings as JSON' },
  log_level: { kind: 'value', group: 'Output', describe: LOG_LEVELS.join(', '), default: 'info' },
} as const satisfies OptionTable;

export const DOCTOR_EXAMPLES = [
  ['$0 doctor', 'what this machine allows, and how to mend what it does not'],
  ['$0 doctor --path /data/models --save machine.json', 'measures the drive as well, for plan --machine'],
] as const;

export interface DoctorOptions {
  readonly path: string | undefined;
  readonly save: string | undefined;
  readonly json: boolean;
}

/** Throws BAD_OPTION. */
export function readDoctorOptions(options: OptionReader): DoctorOptions {
  return { path: options.path('path'), save: options.path('save'), json: options.flag('json') };
}
