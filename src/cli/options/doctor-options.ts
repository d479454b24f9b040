// Options of `doctor`.

import { badOption, type OptionReader } from './option-reader.js';

export interface DoctorOptions {
  /** Folders or files on drives that are to be measured. */
  readonly paths: readonly string[];
  readonly save: string | undefined;
  readonly json: boolean;
}

/** Throws BAD_OPTION. */
export function readDoctorOptions(options: OptionReader): DoctorOptions {
  const paths = options.list('path');
  if (paths.includes('')) throw badOption('--path is empty: give a path');
  return { paths, save: options.path('save'), json: options.flag('json') };
}
