// Random weights that are made once and found again: only where the folder is still what was made.

import { createHash } from 'node:crypto';
import { readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type FileState, OperatingError, stateFrom } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { type JsonObject, readOptionalJsonObject } from '../files/json-file.js';
import {
  checkRoom,
  type DummyCheckpointOptions,
  dummyFileNames,
  firstDifference,
  withDummyLock,
  writeLocked,
} from './weights.js';

export type DummyPhase = 'write' | 'compare';

export interface DummyStoreOptions extends Omit<DummyCheckpointOptions, 'onProgress'> {
  readonly onProgress?: (doneBytes: number, totalBytes: number, phase: DummyPhase) => void;
  readonly log?: (message: string) => void;
}

/** Beside the weights: what they were when they were complete, so that they need not be read to know them again. */
export const DUMMY_RECORD = 'zero-inference-dummy.json';
const FORMAT = 'zero-inference dummy 1';

/**
 * Makes sure that `folder` holds exactly the checkpoint that the options describe: written now, found untouched, or
 * compared to the last byte after somebody has touched or copied it.
 * Errors: those of `writeDummyCheckpoint`; WRITE_FAILED for a folder that holds anything else.
 */
export async function ensureDummyCheckpoint(options: DummyStoreOptions): Promise<void> {
  const folder = resolve(options.folder);
  if (await isFound(folder, options)) return;
  await checkRoom(options);
  await withDummyLock(folder, options, async () => {
    // Whoever had the lock may have made it.
    if (await isFound(folder, options)) return;
    options.log?.(`writing random weights to ${folder}`);
    await writeLocked({
      ...options,
      onProgress: (done, total) => options.onProgress?.(done, total, 'write'),
    });
    await writeRecord(folder, options);
  });
}

/** False where nothing is there yet. Takes no lock, since the folder appears in one step, and may be of others. */
async function isFound(folder: string, options: DummyStoreOptions): Promise<boolean> {
  const names = await namesIn(folder);
  if (names.length === 0) return false;
  const own = dummyFileNames(options);
  const other = names.find(
    (name) => /\.(safetensors|bin|pth?|index\.json)$/.test(name) && !own.includes(name),
  );
  if (other !== undefined) throw refusal(folder, `holds ${other} as well`);
  const states = await statesOf(folder, own);
  const record = await readRecord(join(folder, DUMMY_RECORD));
  if (states && JSON.stringify(record) === JSON.stringify(recordOf(options, states))) return true;
  options.log?.(`${folder} was made by an earlier version, or touched since: comparing it`);
  const difference = await firstDifference({
    ...options,
    onProgress: (done, total) => options.onProgress?.(done, total, 'compare'),
  });
  if (difference !== undefined) throw refusal(folder, `has another ${difference} than was made, or none`);
  // What was compared must be what is recorded.
  const now = await statesOf(folder, own);
  if (JSON.stringify(now) !== JSON.stringify(states)) throw refusal(folder, 'changed while it was compared');
  await writeRecord(folder, options);
  return true;
}

/** None where it is absent, or no folder: writing says which. */
async function namesIn(folder: string): Promise<string[]> {
  return (await ifThere(folder, readdir(folder))) ?? [];
}

/** A damaged record only means that the weights are compared. */
async function readRecord(path: string): Promise<JsonObject | undefined> {
  return readOptionalJsonObject(path, 'BAD_INPUT').catch((error) => {
    if (error instanceof OperatingError && error.code === 'BAD_INPUT') return undefined;
    throw error;
  });
}

interface RecordedFile extends Pick<FileState, 'sizeBytes' | 'mtimeNs' | 'ctimeNs'> {
  readonly name: string;
}

/** Undefined where one is missing: comparing says which. */
async function statesOf(folder: string, names: readonly string[]): Promise<RecordedFile[] | undefined> {
  const states: RecordedFile[] = [];
  for (const name of names) {
    const path = join(folder, name);
    const found = await ifThere(path, stat(path, { bigint: true }));
    if (!found) return undefined;
    const { sizeBytes, mtimeNs, ctimeNs } = stateFrom(found);
    states.push({ name, sizeBytes, mtimeNs, ctimeNs });
  }
  return states;
}

/** The keys keep this order, since records are compared as text. */
function recordOf({ config, tensors, seed }: DummyStoreOptions, files: readonly RecordedFile[]) {
  const content = createHash('sha256')
    .update(JSON.stringify([config, tensors, seed]))
    .digest('hex');
  return { format: FORMAT, content, files };
}

/** Writes the record in one step. Where that fails, as in a folder for reading only, weights are compared again next time. */
async function writeRecord(folder: string, options: DummyStoreOptions): Promise<void> {
  const states = await statesOf(folder, dummyFileNames(options));
  if (!states) return;
  const path = join(folder, DUMMY_RECORD);
  const own = `${path}.partial`;
  try {
    await writeFile(own, `${JSON.stringify(recordOf(options, states), undefined, 2)}\n`);
    await rename(own, path);
  } catch {
    await rm(own, { force: true }).catch(() => undefined);
  }
}

function refusal(folder: string, what: string): OperatingError {
  return new OperatingError(
    'WRITE_FAILED',
    `${folder} is where random weights of this shape lie, but it ${what}: remove the folder, and they are made again`,
  );
}
