// What this program and Python's client keep on drives, as it is listed; and what goes when some of it is removed.

import { lstat, readdir, rmdir, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { reason, systemCode } from '../files/json-file.js';
import { takeLock } from '../staging/lock.js';

export type StoredKind = 'download' | 'copy' | 'packed' | 'dummy';

export interface Revision {
  readonly commit: string;
  /** Branches and tags that are this commit. */
  readonly refs: readonly string[];
  /** Size of its files, also of those that others share. */
  readonly sizeBytes: number;
  readonly path: string;
}

export interface Stored {
  readonly kind: StoredKind;
  /** What it is called by whoever wants it removed. */
  readonly name: string;
  readonly path: string;
  readonly sizeBytes: number;
  /** The part of `sizeBytes` that is not whole yet: downloads and copies that were stopped. */
  readonly incompleteBytes: number;
  /** When a file of it was last read or written, as far as the drive notes it. */
  readonly usedAt: Date | undefined;
  /** For people: where it is from. */
  readonly about: string;
  /** Only downloads have them. */
  readonly revisions: readonly Revision[];
}

export interface StoredFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly usedMs: number;
  readonly writtenMs: number;
  readonly isLink: boolean;
}

/** In this order. Links go as links: what they lead to is not touched. */
export interface Removal {
  readonly files: readonly StoredFile[];
  /** Removed where nothing is left in them; inner ones first. */
  readonly folders: readonly string[];
  /** Whoever holds one of these writes to the files. */
  readonly locks: readonly string[];
  /** The one of `locks` that is ours to hold while files go. */
  readonly ownLock: string | undefined;
}

export interface Tree {
  readonly files: readonly StoredFile[];
  /** Inner ones first, the root last. */
  readonly folders: readonly string[];
}

/** Everything below `root`, which is no link itself; nothing where it is absent. Follows no link. */
export async function treeBelow(root: string): Promise<Tree> {
  const entries = (await ifThere(root, readdir(root, { withFileTypes: true }))) ?? [];
  const [files, folders]: [StoredFile[], string[]] = [[], []];
  for (const entry of entries) {
    const path = join(root, entry.name);
    if (entry.isDirectory()) {
      const inner = await treeBelow(path);
      files.push(...inner.files);
      folders.push(...inner.folders);
    } else {
      const file = await storedFile(path);
      if (file) files.push(file);
    }
  }
  return { files, folders: [...folders, root] };
}

/** Undefined where it is gone meanwhile. */
export async function storedFile(path: string): Promise<StoredFile | undefined> {
  const found = await ifThere(path, lstat(path));
  if (!found) return undefined;
  const isLink = found.isSymbolicLink();
  return {
    path,
    sizeBytes: isLink ? 0 : found.size,
    usedMs: Math.max(found.atimeMs, found.mtimeMs),
    writtenMs: found.mtimeMs,
    isLink,
  };
}

export function bytesOf(files: Iterable<Pick<StoredFile, 'sizeBytes'>>): number {
  let sum = 0;
  for (const { sizeBytes } of files) sum += sizeBytes;
  return sum;
}

export function lastUsed(files: readonly StoredFile[]): Date | undefined {
  const times = files.filter(({ isLink }) => !isLink).map(({ usedMs }) => usedMs);
  return times.length === 0 ? undefined : new Date(times.reduce((last, time) => Math.max(last, time)));
}

/** Folders in `parent`, real ones: a link may lead anywhere, and where it leads is not ours. */
export async function foldersIn(parent: string): Promise<string[]> {
  const entries = (await ifThere(parent, readdir(parent, { withFileTypes: true }))) ?? [];
  return entries
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => name)
    .sort();
}

/** Returns folders that are still there, because something else is in them. Throws WRITE_FAILED or INTERRUPTED. */
export async function carryOut(removal: Removal, signal: AbortSignal): Promise<string[]> {
  const { files, folders, ownLock } = removal;
  const unlock = ownLock === undefined ? undefined : await takeLock(ownLock, { signal });
  try {
    for (const { path } of files) await unlink(path).catch((error) => refuseUnlessGone(path, error));
  } finally {
    await unlock?.();
  }
  const kept: string[] = [];
  for (const folder of folders) {
    try {
      await rmdir(folder);
    } catch (error) {
      if (systemCode(error) === 'ENOTEMPTY' || systemCode(error) === 'EEXIST') kept.push(folder);
      else refuseUnlessGone(folder, error);
    }
  }
  // What holds another is there because that one is.
  return kept.filter((folder) => !kept.some((other) => dirname(other) === folder));
}

function refuseUnlessGone(path: string, error: unknown): void {
  if (systemCode(error) === 'ENOENT') return;
  throw new OperatingError('WRITE_FAILED', `${path} cannot be removed: ${reason(error)}`, { cause: error });
}
