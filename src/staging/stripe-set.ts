// A striped copy: its drives, how files are cut, and where the parts of each file lie.

import { join } from 'node:path';
import {
  formatBytes,
  formatRate,
  present,
  type StripedFile,
  type Stripes,
  secondsPerByte,
} from '../../offload/index.js';
import type { SourceState } from './manifest.js';
import type { StripeRecord } from './stripe-record.js';

/** A file of the checkpoint, by the name that it has there. */
export interface StripeSource extends SourceState {
  readonly name: string;
}

export interface StripedDrive {
  readonly folder: string;
  readonly bytesPerSecond: number;
}

/** How files are cut and where the parts lie; drives in the order of the shares. */
export interface StripeSet {
  readonly stripes: Stripes;
  readonly drives: readonly StripedDrive[];
  /** Where the parts of each drive lie; undefined for the one that holds the checkpoint. */
  readonly folders: readonly (string | undefined)[];
  /** What lies there already; undefined where nothing does. */
  readonly records: readonly (StripeRecord | undefined)[];
}

/** Where the bytes of a source lie. */
export function stripedFile({ stripes, folders }: StripeSet, source: StripeSource): StripedFile {
  const parts = folders.map((folder) =>
    folder === undefined
      ? { path: source.path, isWhole: true }
      : { path: join(folder, partName(source)), isWhole: false },
  );
  return { stripes, parts };
}

/** What a drive has of a source. */
export function partName({ name }: StripeSource): string {
  return `${name}.stripe`;
}

/** How much longer the drives read than with shares that are in proportion to their rates. */
export function slowdown(stripes: Stripes, drives: readonly StripedDrive[]): number {
  const rates = drives.map(({ bytesPerSecond }) => bytesPerSecond);
  return secondsPerByte(stripes, rates) * rates.reduce((sum, rate) => sum + rate, 0);
}

/** What goes to each drive, for people. */
export function sharesText({ stripes, drives, folders }: StripeSet, totalBytes: number): string {
  return drives
    .map(({ folder, bytesPerSecond }, i) => {
      const share = present(stripes.shareBytes[i], 'share') / stripes.periodBytes;
      const what = folders[i] === undefined ? 'read in place of' : `${formatBytes(share * totalBytes)} to`;
      return `${what} ${folder} (${formatRate(bytesPerSecond)})`;
    })
    .join(', ');
}
