// What the system says of a file without reading it: enough to tell that somebody has written to it.

import { type BigIntStats, fstatSync, statSync } from 'node:fs';

/** Nanoseconds and inodes exceed 2^53, hence text. */
export interface FileState {
  readonly sizeBytes: number;
  readonly mtimeNs: string;
  /** When content, times, name, links, owner or permissions changed last; nobody can set it. */
  readonly ctimeNs: string;
  readonly device: string;
  readonly inode: string;
  /** What changes ctime without touching content: links, owner and permissions. */
  readonly attributes: string;
}

/** Throws what `stat` throws. Follows links. */
export function stateOfPath(path: string): FileState {
  return stateFrom(statSync(path, { bigint: true }));
}

/** The state of what a descriptor was opened for, wherever its name leads now. */
export function stateOfDescriptor(descriptor: number): FileState {
  return stateFrom(fstatSync(descriptor, { bigint: true }));
}

export function stateFrom(stats: BigIntStats): FileState {
  return {
    sizeBytes: Number(stats.size),
    mtimeNs: String(stats.mtimeNs),
    ctimeNs: String(stats.ctimeNs),
    device: String(stats.dev),
    inode: String(stats.ino),
    attributes: `${stats.nlink} ${stats.mode} ${stats.uid} ${stats.gid}`,
  };
}

type Times = Pick<FileState, 'sizeBytes' | 'mtimeNs' | 'ctimeNs'>;

export function isSameFile(a: FileState, b: FileState): boolean {
  return a.device === b.device && a.inode === b.inode;
}

/** The same file, and nothing of it has changed. */
export function isUnchanged(before: FileState, now: FileState): boolean {
  return isSameFile(before, now) && hasSameContent(before, now);
}

/** As far as times and size tell; wherever the file lies. */
export function hasSameContent(before: Times, now: Times): boolean {
  return (
    before.sizeBytes === now.sizeBytes && before.mtimeNs === now.mtimeNs && before.ctimeNs === now.ctimeNs
  );
}

/**
 * What was done to the content of an open file, in words; undefined for nothing. A file that is renamed, linked, removed
 * or replaced under its name keeps its bytes for whoever has it open, and so does one whose owner or permissions change.
 * @param named the file that its path leads to now; undefined where there is none
 */
export function describeChange(
  before: FileState,
  now: FileState,
  named: FileState | undefined,
): string | undefined {
  if (before.sizeBytes !== now.sizeBytes)
    return `had ${before.sizeBytes} bytes when it was opened and has ${now.sizeBytes} now`;
  if (before.mtimeNs !== now.mtimeNs) return `was written to or touched at ${timeOf(now.mtimeNs)}`;
  if (before.ctimeNs === now.ctimeNs) return undefined;
  const explained = before.attributes !== now.attributes || named === undefined || !isSameFile(named, now);
  return explained
    ? undefined
    : `was changed at ${timeOf(now.ctimeNs)}, though its time of writing is as before`;
}

function timeOf(nanoseconds: string): string {
  const date = new Date(Number(BigInt(nanoseconds) / 1_000_000n));
  return Number.isNaN(date.getTime()) ? `${nanoseconds} ns` : date.toISOString();
}
