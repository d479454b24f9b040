// Puts the weights on the drive they are to stream from: in place where they lie there already, else by one copy.
//
// The copy lies in DIR/zero-inference-<id>/ with a manifest, and is used again at the next start: at once when the
// source files are the ones that were copied, after hashing them once when they were touched or moved.

import { readdir, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { type FileState, hasSameContent, OperatingError, type WeightFile } from '../../offload/index.js';
import { makeFolder, nearestFolder, removeEmpty } from '../files/make-folder.js';
import { contentId } from './id.js';
import { takeLock } from './lock.js';
import {
  fileState,
  isIntact,
  readManifest,
  type SourceState,
  sameState,
  sourceState,
  stateOfCopy,
} from './manifest.js';
import { bringUpToDate, discard, type StageOptions } from './update.js';

export type { StageOptions };

export interface StagedWeights {
  /** Absolute, in the order of the checkpoint's files. */
  readonly files: readonly WeightFile[];
  /** What their paths led to when it was made sure that they have the checkpoint's content. */
  readonly fileStates: readonly FileState[];
  /** Digest of each file's content, in hex; absent when the files are read in place. */
  readonly sha256?: readonly string[];
  /** Where they lie: the checkpoint's own folder when they are read in place. */
  readonly folder: string;
  /** Whether this call wrote any of them. */
  readonly copied: boolean;
  /** Where the weights are striped over several drives. */
  readonly drives?: readonly DriveShare[];
}

/** Weights in one folder, as whole files. */
export interface StagedFiles extends StagedWeights {
  readonly files: readonly string[];
}

/** What one of several drives has of the weights. */
export interface DriveShare {
  readonly folder: string;
  readonly bytesPerSecond: number;
  /** Its part of every period, which is the sum of all shares. */
  readonly shareBytes: number;
}

export interface Sources {
  readonly folder: string;
  readonly files: readonly string[];
  /** What they were when their headers were read. */
  readonly fileStates?: readonly FileState[];
}

/**
 * Makes `checkpoint`'s weight files readable from the drive of `dir`, which is created if it does not exist.
 * Errors: NO_SPACE, WRITE_FAILED, READ_FAILED, FILE_CHANGED, NOT_FOUND, INTERRUPTED.
 */
export async function stageCheckpoint(
  checkpoint: Sources,
  dir: string,
  options: StageOptions = {},
): Promise<StagedFiles> {
  const root = resolve(dir);
  const sources = await Promise.all(checkpoint.files.map(sourceState));
  checkSources(checkpoint, sources);
  // Where nothing is copied, no folder is made for it.
  if (await lieOnDriveOf(sources, await nearestFolder(root))) {
    const fileStates = await Promise.all(checkpoint.files.map(fileState));
    return { files: checkpoint.files, fileStates, folder: checkpoint.folder, copied: false };
  }
  const folder = join(root, `zero-inference-${await contentId(checkpoint.files)}`);
  const staged = checkpoint.files.map((file) => join(folder, basename(file)));
  const found = await completeCopies(folder, sources, staged);
  if (found) return { files: staged, ...found, folder, copied: false };
  const made = await makeFolder(folder);
  const unlock = await takeLock(join(folder, COPY_LOCK), {
    signal: options.signal,
    onWait: (holder) => options.log?.(`${holder} is copying the same weights to ${folder}: waiting for it`),
  });
  try {
    await clearLeftovers(folder);
    const copied = await bringUpToDate(folder, sources, staged, options);
    const made = await completeCopies(folder, sources, staged);
    if (made) return { files: staged, ...made, folder, copied };
    throw new OperatingError(
      'FILE_CHANGED',
      `the weights in ${checkpoint.folder}, or their copy in ${folder}, changed while they were compared: start again`,
    );
  } finally {
    await unlock();
    await removeEmpty(made);
  }
}

/** A copy of other files than the headers were read of would be read by the wrong headers. */
export function checkSources({ fileStates = [] }: Sources, sources: readonly SourceState[]): void {
  for (const [i, source] of sources.entries()) {
    const header = fileStates[i];
    if (!header || (header.inode === source.inode && hasSameContent(header, source))) continue;
    throw new OperatingError(
      'FILE_CHANGED',
      `${source.path} was replaced or written to after its header had been read: start again when it is complete`,
    );
  }
}

/** In the folder of a copy. */
export const COPY_LOCK = 'lock';
/** Names of such folders, and of those with one drive's part of a copy over several. */
export const COPY_FOLDER = /^zero-inference-[0-9a-f]{16}(-striped)?$/;

/** What killed processes left, earlier versions among them; partial copies stay, since copying goes on from them. */
async function clearLeftovers(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (/^lock\.\d+$/.test(name) || name === 'manifest.json.partial') await discard(join(folder, name));
  }
}

/** Compares device numbers. Subvolumes of one drive have different ones: they are treated as different drives. */
async function lieOnDriveOf(sources: readonly SourceState[], dir: string): Promise<boolean> {
  const { dev } = await stat(dir);
  const devices = await Promise.all(sources.map(async ({ path }) => (await stat(path)).dev));
  return devices.every((device) => device === dev);
}

/**
 * The copies as they are, when all files were copied from exactly these sources and nobody has touched either since.
 * Takes no lock: manifests are replaced in one step.
 */
async function completeCopies(
  folder: string,
  sources: readonly SourceState[],
  staged: readonly string[],
): Promise<{ readonly fileStates: FileState[]; readonly sha256: string[] } | undefined> {
  const manifest = await readManifest(folder);
  const [fileStates, sha256]: [FileState[], string[]] = [[], []];
  for (const [i, source] of sources.entries()) {
    const entry = manifest.get(basename(staged[i] ?? ''));
    const copy = entry && sameState(entry.source, source) ? await stateOfCopy(folder, entry) : undefined;
    if (!entry || !copy || !isIntact(entry, copy)) return undefined;
    fileStates.push(copy);
    sha256.push(entry.sha256);
  }
  return { fileStates, sha256 };
}
