// Puts the weights on the drive they are to stream from: in place where they lie there already, else by one copy.
//
// The copy lies in DIR/zero-inference-<id>/ with a manifest, and is used again at the next start: at once when the
// source files are the ones that were copied, after hashing them once when they were touched or moved.

import { createHash } from 'node:crypto';
import { mkdir, open, readdir, rm, stat, statfs } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { type FileState, formatBytes, KiB, MiB, OperatingError, stateFrom } from '../offload/index.js';
import { reason, systemCode } from './json-file.js';
import { readSafetensorsHeader } from './safetensors.js';
import { copyFile, hashFile, sizeOf } from './staging-copy.js';
import { takeLock } from './staging-lock.js';
import {
  isIntact,
  readManifest,
  type SourceState,
  type StagedFile,
  sameState,
  sourceState,
  stateOfCopy,
  writeFailure,
  writeManifest,
} from './staging-manifest.js';

export interface StageOptions {
  /** `compare` reads sources and copies that were touched since they were copied; `copy` reads and writes. */
  readonly onProgress?: (bytesDone: number, bytesTotal: number, phase: 'compare' | 'copy') => void;
  /** Stops between two chunks with INTERRUPTED; the next start goes on from there. */
  readonly signal?: AbortSignal;
  readonly log?: (message: string) => void;
}

export interface StagedWeights {
  /** Absolute, in the order of the checkpoint's files. */
  readonly files: readonly string[];
  /** What the files were when it was made sure that they have the checkpoint's content. */
  readonly fileStates: readonly FileState[];
  /** Where they lie: the checkpoint's own folder when they are read in place. */
  readonly folder: string;
  /** Whether this call wrote any of them. */
  readonly copied: boolean;
}

/** Left free beside the copy: for the manifest, the file system's own tables, and whoever else writes there. */
const MARGIN_BYTES = 256 * MiB;
const SAMPLE_BYTES = 4 * KiB;

/**
 * Makes `checkpoint`'s weight files readable from the drive of `dir`, which is created if it does not exist.
 * Errors: NO_SPACE, WRITE_FAILED, READ_FAILED, FILE_CHANGED, NOT_FOUND, INTERRUPTED.
 */
export async function stageCheckpoint(
  checkpoint: { readonly folder: string; readonly files: readonly string[] },
  dir: string,
  options: StageOptions = {},
): Promise<StagedWeights> {
  const root = resolve(dir);
  await makeFolder(root);
  const sources = await Promise.all(checkpoint.files.map(sourceState));
  if (await lieOnDriveOf(sources, root)) {
    const fileStates = await Promise.all(checkpoint.files.map(fileState));
    return { files: checkpoint.files, fileStates, folder: checkpoint.folder, copied: false };
  }
  const folder = join(root, `zero-inference-${await contentId(checkpoint.files)}`);
  const staged = checkpoint.files.map((file) => join(folder, basename(file)));
  const found = await completeCopies(folder, sources, staged);
  if (found) return { files: staged, fileStates: found, folder, copied: false };
  await makeFolder(folder);
  const unlock = await takeLock(join(folder, LOCK_NAME), {
    signal: options.signal,
    onWait: (holder) => options.log?.(`${holder} is copying the same weights to ${folder}: waiting for it`),
  });
  try {
    await clearLeftovers(folder);
    const copied = await bringUpToDate(folder, sources, staged, options);
    const fileStates = await completeCopies(folder, sources, staged);
    if (fileStates) return { files: staged, fileStates, folder, copied };
    throw new OperatingError(
      'FILE_CHANGED',
      `the weights in ${checkpoint.folder}, or their copy in ${folder}, changed while they were compared: start again`,
    );
  } finally {
    await unlock();
  }
}

const LOCK_NAME = 'lock';

/** What killed processes left, earlier versions among them; partial copies stay, since copying goes on from them. */
async function clearLeftovers(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (/^lock\.\d+$/.test(name) || name === 'manifest.json.partial') await discard(join(folder, name));
  }
}

async function fileState(path: string): Promise<FileState> {
  return stateFrom(await stat(path, { bigint: true }));
}

/** With its parents; not by mkdir's `recursive`, which never returns where a file system refuses with ENOENT. */
async function makeFolder(path: string): Promise<void> {
  const entry = await stat(path).catch(() => undefined);
  if (entry?.isDirectory()) return;
  if (entry) throw new OperatingError('WRITE_FAILED', `${path} is a file: give a folder for the weights`);
  if (dirname(path) !== path) await makeFolder(dirname(path));
  try {
    await mkdir(path);
  } catch (error) {
    const rival = systemCode(error) === 'EEXIST' && (await stat(path).catch(() => undefined))?.isDirectory();
    if (rival) return; // made by another process just now
    throw new OperatingError('WRITE_FAILED', `the folder ${path} cannot be made: ${reason(error)}`, {
      cause: error,
    });
  }
}

/** Compares device numbers. Subvolumes of one drive have different ones: they are treated as different drives. */
async function lieOnDriveOf(sources: readonly SourceState[], dir: string): Promise<boolean> {
  const { dev } = await stat(dir);
  const devices = await Promise.all(sources.map(async ({ path }) => (await stat(path)).dev));
  return devices.every((device) => device === dev);
}

/**
 * Names the copy: from file names, sizes, headers, and 4 KiB from the middle of each file, since a fine-tuned model
 * has the names, sizes and headers of its base. Were two models to agree in all that, they would take turns in one
 * folder, each copied again; the manifest's hashes decide what is used.
 */
async function contentId(files: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const path of files) {
    const { sizeBytes, dataOffset } = await headerOf(path);
    hash.update(`${basename(path)}\0${sizeBytes}\0`);
    const file = await open(path, 'r');
    try {
      const header = await file.read(Buffer.alloc(dataOffset), 0, dataOffset, 0);
      hash.update(header.buffer);
      const middle = dataOffset + Math.floor((sizeBytes - dataOffset) / 2);
      const sample = await file.read(Buffer.alloc(SAMPLE_BYTES), 0, SAMPLE_BYTES, middle);
      hash.update(sample.buffer);
    } catch (error) {
      throw new OperatingError('READ_FAILED', `${path} cannot be read: ${reason(error)}`, { cause: error });
    } finally {
      await file.close();
    }
  }
  return hash.digest('hex').slice(0, 16);
}

/** Where the tensors begin, and the file's size. Of PyTorch's files, whose directory is at the end, a few KiB serve. */
async function headerOf(path: string): Promise<{ readonly sizeBytes: number; readonly dataOffset: number }> {
  if (path.endsWith('.safetensors')) return readSafetensorsHeader(path);
  const { size } = await stat(path);
  return { sizeBytes: size, dataOffset: Math.min(size, SAMPLE_BYTES) };
}

/**
 * The copies as they are, when all files were copied from exactly these sources and nobody has touched either since.
 * Takes no lock: manifests are replaced in one step.
 */
async function completeCopies(
  folder: string,
  sources: readonly SourceState[],
  staged: readonly string[],
): Promise<FileState[] | undefined> {
  const manifest = await readManifest(folder);
  const states: FileState[] = [];
  for (const [i, source] of sources.entries()) {
    const entry = manifest.get(basename(staged[i] ?? ''));
    const copy = entry && sameState(entry.source, source) ? await stateOfCopy(folder, entry) : undefined;
    if (!entry || !copy || !isIntact(entry, copy)) return undefined;
    states.push(copy);
  }
  return states;
}

interface Job {
  readonly source: SourceState;
  readonly target: string;
}

/** Compares and copies what has to be. Returns whether anything was written. */
async function bringUpToDate(
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
    await copyMissing(folder, missing, finished, totalBytes(jobs), options);
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
async function discard(target: string): Promise<void> {
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

async function copyMissing(
  folder: string,
  missing: readonly Job[],
  finished: Map<string, StagedFile>,
  bytesTotal: number,
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
