// What an output path leads to: a file, however many links lie before it, or a stream that is written as it comes.

import { type BigIntStats, fstatSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { systemCode } from './json-file.js';

export type OutputTarget =
  /** `path` has no links in it; `found` is undefined where there is no file yet. */
  | { readonly kind: 'file'; readonly path: string; readonly found: BigIntStats | undefined }
  /** A pipe or a device: never replaced, and without a size. */
  | { readonly kind: 'stream'; readonly path: string; readonly found: BigIntStats }
  /** An open file of this process, such as stdout: opened anew it would be written from its beginning. */
  | { readonly kind: 'descriptor'; readonly descriptor: number };

/** The word for stdout that other tools use as well. */
const STDOUT_NAME = '-';

/** Whether `path` leads to stdout, under whichever of its names. */
export function isStdout(path: string): boolean {
  const target = outputTarget(path);
  return target.kind === 'descriptor' && target.descriptor === 1;
}

/** As many links as Linux follows. */
const MOST_LINKS = 40;

/** Throws what the system says, or an Error with a reason, where nothing can be written to `path`. */
export function outputTarget(path: string): OutputTarget {
  if (path === STDOUT_NAME) return { kind: 'descriptor', descriptor: 1 };
  const end = followLinks(path);
  if (typeof end === 'number') return { kind: 'descriptor', descriptor: end };
  // The path as given may lead where no path of the file system does: a pipe of another process below /proc.
  const found = statOf(path);
  if (found?.isDirectory() || /\/\.{0,2}$/.test(path)) throw new Error('it is a folder');
  if (found?.isBlockDevice()) throw new Error('it is a whole drive');
  if (found && !found.isFile()) return { kind: 'stream', path, found };
  return { kind: 'file', path: end, found };
}

/** The same for all names of one file, also of one that is yet to be made; undefined for devices, which take anything. */
export function identityOf(target: OutputTarget): string | undefined {
  switch (target.kind) {
    case 'descriptor':
      return `descriptor ${target.descriptor}`;
    case 'stream':
      return identityOfStats(target.found);
    case 'file':
      return target.found ? identityOfStats(target.found) : placeOf(target.path);
  }
}

/** The identity of the file that is open as `descriptor`; undefined where none is. */
export function identityOfDescriptor(descriptor: number): string | undefined {
  try {
    const found = fstatSync(descriptor, { bigint: true });
    return found.isFile() ? identityOfStats(found) : undefined;
  } catch {
    return undefined;
  }
}

/** The identity of what `path` leads to; undefined where there is nothing, or a device. */
export function identityOfPath(path: string): string | undefined {
  try {
    const found = statOf(path);
    return found && identityOfStats(found);
  } catch {
    return undefined; // whoever reads it says what is wrong
  }
}

/** Where a file of that name would be made; undefined where its folder is absent. */
export function placeOf(path: string): string | undefined {
  const folder = identityOfPath(dirname(path));
  return folder && `${folder} ${basename(path)}`;
}

function identityOfStats(found: BigIntStats): string | undefined {
  return found.isCharacterDevice() ? undefined : `${found.dev}:${found.ino}`;
}

function statOf(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true });
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return undefined;
    throw error;
  }
}

/** The path at the end of all links, which need not exist, or the number of a descriptor of this process. */
function followLinks(path: string): string | number {
  let current = path;
  for (let links = 0; links <= MOST_LINKS; links++) {
    // The system resolves it: joining names would take `link/..` for the folder that the link lies in.
    const place = join(realpathSync.native(dirname(current)), basename(current));
    const descriptor = ownDescriptor(place);
    if (descriptor !== undefined) return descriptor;
    const next = linkAt(place);
    if (next === undefined) return place;
    current = next.startsWith('/') ? next : `${dirname(place)}/${next}`;
  }
  throw new Error(`there are more than ${MOST_LINKS} links, or they lead in a circle`);
}

function ownDescriptor(place: string): number | undefined {
  const match = /^\/proc\/(\d+)(?:\/task\/\d+)?\/fd\/(\d+)$/.exec(place);
  return match && Number(match[1]) === process.pid ? Number(match[2]) : undefined;
}

function linkAt(place: string): string | undefined {
  try {
    return readlinkSync(place);
  } catch (error) {
    if (systemCode(error) === 'EINVAL' || systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
