// Makes the copies in a staging folder right: keeps what has the content of its source, and copies the rest.

import { rm, statfs } from 'node:fs/promises';
import { basename } from 'node:path';
import { formatBytes, MiB, OperatingError } from '../../offload/index.js';
import { copyFile, hashFile, sizeOf } from './copy.js';
import {
  fileState,
  isIntact,
  readManifest,
  type SourceState,
  type StagedFile,
  sameState,
  sourceState,
  stateOfCopy,
  writeFailure,
  writeManifest,
} from './manifest.js';

export interface StageOptions {
  /** `compare` reads sources and copies that were touched since they were copied; `copy` reads and writes. */
  readonly onProgress?: (bytesDone: number, bytesTotal: number, phase: 'compare' | 'copy') => void;
  /** Stops between two chunks with INTERRUPTED; the next start goes on from there. */
  readonly signal?: AbortSignal;
  readonly log?: (message: string) => void;
}

/** Left free beside the copy: for the manifest, the file system's own tables, and whoever else writes there. */
const MARGIN_BYTES = 256 * MiB;

interface Job {
  readonly source: SourceState;
  readonly target: string;
}

/** Compares and copies what has to be. Returns whether anything was written. For whoever has the lock. */
export async function bringUpToDate(
  folder: string,
  sources: readonly SourceState[],
  staged: readonly string[],
  options: StageOptions,
): Promise<boolean> {
  const jobs = sources.map((source, i) => ({ source, target: staged[i] ?? '' }));
  const finished = await compareTouched(folder, jobs, options);
  const missing = jobs.filter((job) => !finished.has(basename(job.target)));
  if (missing.length > 0) {
    await checkSpace(folder, missing);
    await copyMissing(folder, { missing, finished, bytesTotal: totalBytes(jobs) }, options);
  }
  await writeManifest(folder, finished.values());
  return missing.length > 0;
}

/** The files whose copy is right, by name; sources and copies that were touched since are read once to find out. */
async function compareTouched(
  folder: string,
  jobs: readonly Job[],
  { onProgress, signal, log }: StageOptions,
): Promise<Map<string, StagedFile>> {
  const manifest = await readManifest(folder);
  const finished = new Map<string, StagedFile>();
  const touched: { job: Job; entry: StagedFile; files: readonly SourceState[]; copy: Times }[] = [];
  for (const job of jobs) {
    const entry = manifest.get(basename(job.target));
    const copy = entry && (await stateOfCopy(folder, entry));
    if (!entry || !copy) await discard(job.target);
    else if (entry.source.sizeBytes === job.source.sizeBytes) {
      const files = sameState(entry.source, job.source) ? [] : [job.source];
      const now = isIntact(entry, copy) ? undefined : await sourceState(job.target);
      if (now) files.push(now);
      if (files.length > 0) touched.push({ job, entry, files, copy: now ?? copy });
      else finished.set(entry.name, entry);
    }
  }
  if (touched.length === 0) return finished;
  const bytesTotal = touched.reduce((sum, { job, files }) => sum + job.source.sizeBytes * files.length, 0);
  log?.(
    `${touched.length} weight files or their copies were touched since they were copied: comparing ` +
      formatBytes(bytesTotal),
  );
  let bytesDone = 0;
  const onBytes = (bytes: number) => {
    bytesDone += bytes;
    onProgress?.(bytesDone, bytesTotal, 'compare');
  };
  for (const { job, entry, files, copy } of touched) {
    let equal = true;
    for (const file of files) {
      if (equal) equal = (await hashFile(file, { signal, onBytes })) === entry.sha256;
    }
    if (!equal) await discard(job.target);
    else finished.set(entry.name, { ...entry, ...timesOf(copy), source: job.source });
  }
  return finished;
}

type Times = Pick<StagedFile, 'mtimeNs' | 'ctimeNs'>;

function timesOf({ mtimeNs, ctimeNs }: Times): Times {
  return { mtimeNs, ctimeNs };
}

/**
 * Removes a file that the manifest does not vouch for: it was written to, or its copying ended in a crash. Removed, not
 * overwritten, because a running process may still read from it.
 */
export async function discard(target: string): Promise<void> {
  try {
    await rm(target, { force: true });
  } catch (error) {
    throw writeFailure(target, error);
  }
}

async function checkSpace(folder: string, missing: readonly Job[]): Promise<void> {
  let neededBytes = MARGIN_BYTES;
  for (const { source, target } of missing) {
    neededBytes += Math.max(0, source.sizeBytes - (await sizeOf(`${target}.partial`)));
  }
  const { bavail, bsize } = await statfs(folder);
  const freeBytes = bavail * bsize;
  if (neededBytes <= freeBytes) return;
  throw new OperatingError(
    'NO_SPACE',
    `${folder} has ${formatBytes(freeBytes)} free, but copying the weights needs ${formatBytes(neededBytes)}: free ` +
      'space, or give a folder on the drive that holds the checkpoint, where nothing is copied',
  );
}

/** What is still to be copied, beside the copies that are right. */
interface Remaining {
  readonly missing: readonly Job[];
  readonly finished: Map<string, StagedFile>;
  readonly bytesTotal: number;
}

async function copyMissing(
  folder: string,
  { missing, finished, bytesTotal }: Remaining,
  { onProgress, signal, log }: StageOptions,
): Promise<void> {
  let bytesDone = bytesTotal - totalBytes(missing);
  log?.(`copying ${formatBytes(bytesTotal - bytesDone)} of weights to ${folder}, once`);
  const onBytes = (bytes: number) => {
    bytesDone += bytes;
    onProgress?.(bytesDone, bytesTotal, 'copy');
  };
  for (const { source, target } of missing) {
    const sha256 = await copyFile(source, target, { signal, onBytes });
    const name = basename(target);
    finished.set(name, { name, sha256, ...timesOf(await fileState(target)), source });
    // After each file, so that a killed copy keeps it.
    await writeManifest(folder, finished.values());
  }
}

function totalBytes(jobs: readonly Job[]): number {
  return jobs.reduce((bytes, { source }) => bytes + source.sizeBytes, 0);
}
