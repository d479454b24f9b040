// Options of `doctor`.

import type { OptionReader } from './option-reader.js';

export interface DoctorOptions {
  readonly path: string | undefined;
  readonly save: string | undefined;
  readonly json: boolean;
}

/** Throws BAD_OPTION. */
export function readDoctorOptions(options: OptionReader): DoctorOptions {
  return { path: options.path('path'), save: options.path('save'), json: options.flag('json') };
}
