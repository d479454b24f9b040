// The record beside a staged copy of weights: what was copied, from where, and what its content is.

import { open, realpath, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { cannotOpen, type FileState, OperatingError, stateFrom } from '../../offload/index.js';
import { isJsonObject, readOptionalJsonObject, reason, systemCode } from '../files/json-file.js';

/** One state of a source file, told apart from others without reading it. Devices get other numbers at times. */
export interface SourceState extends Pick<FileState, 'sizeBytes' | 'mtimeNs' | 'ctimeNs' | 'inode'> {
  /** Without links: a hub cache links to its files. */
  readonly path: string;
}

export interface StagedFile {
  readonly name: string;
  /** Digest of the content, in hex. */
  readonly sha256: string;
  /** When the copy was last written: another time means that somebody may have written to it since. */
  readonly mtimeNs: string;
  readonly ctimeNs: string;
  readonly source: SourceState;
}

const MANIFEST_NAME = 'manifest.json';
const FORMAT = 'zero-inference staging 1';

/** The finished files of a staging folder by name; empty when there is no manifest, or none that can be trusted. */
export async function readManifest(folder: string): Promise<Map<string, StagedFile>> {
  const manifest = await readOptionalJsonObject(join(folder, MANIFEST_NAME), 'BAD_INPUT').catch((error) => {
    // A broken record only means that the copies are compared with their sources again.
    if (error instanceof OperatingError && error.code === 'BAD_INPUT') return undefined;
    throw error;
  });
  if (manifest?.format !== FORMAT || !Array.isArray(manifest.files)) return new Map();
  return new Map(manifest.files.flatMap(stagedFileOf).map((file) => [file.name, file]));
}

/** Replaces the manifest in one step: a reader sees the old one or the new one, also after a crash. */
export async function writeManifest(folder: string, files: Iterable<StagedFile>): Promise<void> {
  await writeDurably(
    folder,
    MANIFEST_NAME,
    `${JSON.stringify({ format: FORMAT, files: [...files] }, null, 2)}\n`,
  );
}

/** A small file in one step, durable. Errors: NO_SPACE, WRITE_FAILED. */
export async function writeDurably(folder: string, name: string, text: string): Promise<void> {
  const path = join(folder, name);
  try {
    const file = await open(`${path}.partial`, 'w');
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${path}.partial`, path);
    await syncFolder(folder);
  } catch (error) {
    throw writeFailure(path, error);
  }
}

/** The state of a source file, behind its links. Errors: NOT_FOUND. */
export async function sourceState(file: string): Promise<SourceState> {
  try {
    const path = await realpath(file);
    const { sizeBytes, mtimeNs, ctimeNs, inode } = await fileState(path);
    return { path, sizeBytes, mtimeNs, ctimeNs, inode };
  } catch (error) {
    throw cannotOpen(file, error);
  }
}

/** Rejects with what the system says. */
export async function fileState(path: string): Promise<FileState> {
  return stateFrom(await stat(path, { bigint: true }));
}

/** Whether it is the same file, and nobody has written to it in between. */
export function sameState(a: SourceState, b: SourceState): boolean {
  const times = a.mtimeNs === b.mtimeNs && a.ctimeNs === b.ctimeNs;
  return times && a.path === b.path && a.sizeBytes === b.sizeBytes && a.inode === b.inode;
}

/** The copy as it is, if it has the size that the manifest says. */
export async function stateOfCopy(folder: string, file: StagedFile): Promise<FileState | undefined> {
  try {
    const state = await fileState(join(folder, file.name));
    return state.sizeBytes === file.source.sizeBytes ? state : undefined;
  } catch {
    return undefined; // absent or not accessible: copying says which
  }
}

/** Whether nobody can have written to the copy since the manifest was. */
export function isIntact(file: StagedFile, copy: FileState): boolean {
  return copy.mtimeNs === file.mtimeNs && copy.ctimeNs === file.ctimeNs;
}

/** Makes renames in the folder survive a power failure. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The operating error for a write that the system refused. */
export function writeFailure(path: string, error: unknown): OperatingError {
  if (error instanceof OperatingError) return error;
  const full = systemCode(error) === 'ENOSPC' || systemCode(error) === 'EDQUOT';
  return full
    ? new OperatingError(
        'NO_SPACE',
        `${path} cannot be written: the drive or its quota is full; free space and start again`,
        { cause: error },
      )
    : new OperatingError('WRITE_FAILED', `${path} cannot be written: ${reason(error)}`, { cause: error });
}

/** None where the entry is damaged. Earlier versions wrote no ctime; without one, content is compared once. */
export function stagedFileOf(value: unknown): StagedFile[] {
  if (!isJsonObject(value) || !isJsonObject(value.source)) return [];
  const { name, sha256, mtimeNs, ctimeNs = '' } = value;
  const { path, sizeBytes, inode, mtimeNs: sourceMtimeNs, ctimeNs: sourceCtimeNs = '' } = value.source;
  const isText = (text: unknown): text is string => typeof text === 'string';
  if (!isText(name) || !isText(sha256) || !isText(mtimeNs) || !isText(ctimeNs)) return [];
  if (!isText(path) || !isText(inode) || !isText(sourceMtimeNs) || !isText(sourceCtimeNs)) return [];
  if (typeof sizeBytes !== 'number' || !Number.isSafeInteger(sizeBytes)) return [];
  const source = { path, sizeBytes, mtimeNs: sourceMtimeNs, ctimeNs: sourceCtimeNs, inode };
  return [{ name, sha256, mtimeNs, ctimeNs, source }];
}
