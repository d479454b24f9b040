// The record in each folder of a striped copy: how files are cut, which drive this one is, and which parts are whole.

import { stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { OperatingError, type Stripes } from '../../offload/index.js';
import { isJsonObject, readOptionalJsonObject } from '../files/json-file.js';
import { nearestFolder } from '../files/make-folder.js';
import { type StagedFile, stagedFileOf, writeDurably } from './manifest.js';

/** One of the drives that files are striped over. */
export interface RecordedDrive {
  /** As it was given. */
  readonly folder: string;
  /** What tells its file system from another one that may be found at the same place. */
  readonly fileSystem: string;
}

export interface StripeRecord {
  readonly stripes: Stripes;
  readonly drives: readonly RecordedDrive[];
  /** The drive whose shares are read of the checkpoint itself, which lies there. */
  readonly wholeDrive: number | undefined;
  /** Which of the drives the record lies on. */
  readonly drive: number;
  /** Whole parts, with the digest of the whole file, by its name. */
  readonly files: ReadonlyMap<string, StagedFile>;
}

/** Beside the record of a copy on one drive, so that whoever lists copies finds both alike. */
export const STRIPE_RECORD = 'manifest.json';
const FORMAT = 'zero-inference stripes 1';

/** Undefined where there is none, or none that can be trusted. */
export async function readStripeRecord(folder: string): Promise<StripeRecord | undefined> {
  const json = await readOptionalJsonObject(join(folder, STRIPE_RECORD), 'BAD_INPUT').catch((error) => {
    if (error instanceof OperatingError && error.code === 'BAD_INPUT') return undefined;
    throw error;
  });
  if (json?.format !== FORMAT || !Array.isArray(json.files) || !Array.isArray(json.drives)) return undefined;
  const { period_bytes: periodBytes, share_bytes: shareBytes, drive, whole_drive: wholeDrive } = json;
  const drives = json.drives.flatMap((one): RecordedDrive[] => {
    if (!isJsonObject(one) || typeof one.folder !== 'string' || typeof one.file_system !== 'string')
      return [];
    return [{ folder: one.folder, fileSystem: one.file_system }];
  });
  if (!Array.isArray(shareBytes) || !shareBytes.every(isShare) || shareBytes.length !== drives.length) {
    return undefined;
  }
  if (periodBytes !== shareBytes.reduce((sum: number, bytes: number) => sum + bytes, 0)) return undefined;
  const isDrive = (value: unknown): value is number =>
    typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < drives.length;
  if (!isDrive(drive) || !(wholeDrive === null || isDrive(wholeDrive))) return undefined;
  return {
    stripes: { periodBytes: periodBytes as number, shareBytes },
    drives,
    wholeDrive: wholeDrive ?? undefined,
    drive,
    files: new Map(json.files.flatMap(stagedFileOf).map((file) => [file.name, file])),
  };
}

function isShare(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0 && value % 4096 === 0;
}

/** In one step, durable. Errors: NO_SPACE, WRITE_FAILED. */
export async function writeStripeRecord(folder: string, record: StripeRecord): Promise<void> {
  const json = {
    format: FORMAT,
    period_bytes: record.stripes.periodBytes,
    share_bytes: record.stripes.shareBytes,
    drives: record.drives.map(({ folder: place, fileSystem }) => ({
      folder: place,
      file_system: fileSystem,
    })),
    whole_drive: record.wholeDrive ?? null,
    drive: record.drive,
    files: [...record.files.values()],
  };
  await writeDurably(folder, STRIPE_RECORD, `${JSON.stringify(json, null, 2)}\n`);
}

/** What tells the file system that a folder lies on, or would be made on. Numbers of devices change from start to start. */
export async function fileSystemOf(folder: string): Promise<string> {
  const { type, bsize, blocks, files } = await statfs(await nearestFolder(folder));
  return [type, bsize, blocks, files].join(' ');
}

/** The number by which the system knows the device, for as long as it is mounted. */
export async function deviceOf(folder: string): Promise<number> {
  return (await stat(await nearestFolder(folder))).dev;
}
