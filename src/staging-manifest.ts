// The record beside a staged copy of weights: what was copied, from where, and what its content is.

import { open, realpath, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { OperatingError } from '../offload/index.js';
import { isJsonObject, readOptionalJsonObject, reason, systemCode } from './json-file.js';

/** One state of a source file, told apart from others without reading it. */
export interface SourceState {
  /** Without links: a hub cache links to its files. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Nanoseconds and inodes exceed 2^53, hence text. */
  readonly mtimeNs: string;
  readonly inode: string;
}

export interface StagedFile {
  readonly name: string;
  /** Of the content. */
  readonly sha256: string;
  /** Of the copy: another time means that somebody wrote to it. */
  readonly mtimeNs: string;
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
  return new Map(manifest.files.filter(isStagedFile).map((file) => [file.name, file]));
}

/** Replaces the manifest in one step: a reader sees the old one or the new one, also after a crash. */
export async function writeManifest(folder: string, files: Iterable<StagedFile>): Promise<void> {
  const path = join(folder, MANIFEST_NAME);
  const text = `${JSON.stringify({ format: FORMAT, files: [...files] }, null, 2)}\n`;
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

export async function sourceState(file: string): Promise<SourceState> {
  try {
    const path = await realpath(file);
    const { size, mtimeNs, ino } = await stat(path, { bigint: true });
    return { path, sizeBytes: Number(size), mtimeNs: String(mtimeNs), inode: String(ino) };
  } catch (error) {
    throw new OperatingError('NOT_FOUND', `${file} cannot be opened: ${reason(error)}`, { cause: error });
  }
}

export function sameState(a: SourceState, b: SourceState): boolean {
  return a.path === b.path && a.sizeBytes === b.sizeBytes && a.mtimeNs === b.mtimeNs && a.inode === b.inode;
}

/** Whether the copy is still what the manifest says: there, of the right size, and not written to since. */
export async function isIntact(folder: string, file: StagedFile): Promise<boolean> {
  try {
    const { size, mtimeNs } = await stat(join(folder, file.name), { bigint: true });
    return Number(size) === file.source.sizeBytes && String(mtimeNs) === file.mtimeNs;
  } catch {
    return false; // absent or not accessible: copying says which
  }
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

function isStagedFile(value: unknown): value is StagedFile {
  if (!isJsonObject(value) || !isJsonObject(value.source)) return false;
  const { source } = value;
  const texts = [value.name, value.sha256, value.mtimeNs, source.path, source.mtimeNs, source.inode];
  return texts.every((text) => typeof text === 'string') && Number.isSafeInteger(source.sizeBytes);
}
