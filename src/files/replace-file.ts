// Replacing what a file holds in one step: whoever looks sees the old content or the new, and so does the next start.

import { randomBytes } from 'node:crypto';
import {
  type BigIntStats,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { systemCode } from './json-file.js';

/** New content, piece by piece. */
export type Content = Iterable<Uint8Array>;

/**
 * The whole content or, after an error, what was there before. Owner, group and permissions stay as they were.
 * @param path without links; `found` is what lies there
 */
export function replaceFile(path: string, found: BigIntStats | undefined, content: Content): void {
  const temporary = openBeside(path, found);
  if (temporary) renameOnto(path, temporary, content);
  else rewriteFile(path, content);
}

interface TemporaryFile {
  readonly path: string;
  readonly file: number;
}

/** A new file that can take the place of the one at `path`; undefined where that one has to be written itself. */
function openBeside(path: string, found: BigIntStats | undefined): TemporaryFile | undefined {
  // Other names of the file would keep the old content.
  if (found && found.nlink > 1n) return undefined;
  // The name does not contain the file's, with which it might be too long.
  const name = `.zero-inference-${process.pid}-${randomBytes(6).toString('hex')}.partial`;
  const temporary = join(dirname(path), name);
  let file: number;
  try {
    file = openSync(temporary, 'wx');
  } catch (error) {
    // A file may be writable where its folder is not.
    if (found && ['EACCES', 'EPERM'].includes(systemCode(error) ?? '')) return undefined;
    throw error;
  }
  let takes = false;
  try {
    takes = !found || takesAfter(file, found);
  } finally {
    if (!takes) {
      closeSync(file);
      rmSync(temporary);
    }
  }
  return takes ? { path: temporary, file } : undefined;
}

function renameOnto(path: string, temporary: TemporaryFile, content: Content): void {
  try {
    try {
      for (const bytes of content) writeAll(temporary.file, bytes);
      fsyncSync(temporary.file);
    } finally {
      closeSync(temporary.file);
    }
    renameSync(temporary.path, path);
  } catch (error) {
    rmSync(temporary.path, { force: true });
    throw error;
  }
}

/** Gives the file owner, group and permissions; false where that is not allowed. */
function takesAfter(file: number, { uid, gid, mode }: BigIntStats): boolean {
  const own = fstatSync(file, { bigint: true });
  try {
    if (own.uid !== uid || own.gid !== gid) fchownSync(file, Number(uid), Number(gid));
    if (own.mode !== mode) fchmodSync(file, Number(mode & 0o7777n));
    return true;
  } catch (error) {
    if (systemCode(error) === 'EPERM') return false;
    throw error;
  }
}

/** Writes in place, with the old content at hand, and all of the new one, which may be read from the same file. */
function rewriteFile(path: string, content: Content): void {
  const old = readFileSync(path);
  const pieces = [...content];
  // Without O_CREAT, since a file that is removed meanwhile must not be made anew.
  const file = openSync(path, constants.O_WRONLY);
  try {
    ftruncateSync(file, 0);
    for (const bytes of pieces) writeAll(file, bytes);
    fsyncSync(file);
  } catch (error) {
    ftruncateSync(file, 0);
    writeAll(file, old, 0); // its blocks were given back a moment ago
    throw error;
  } finally {
    closeSync(file);
  }
}

/** How long a full pipe is left alone. */
const WAIT_MS = 5;

/** All of the bytes, in as many writes as the system wants. @param position undefined: where the file stands */
export function writeAll(file: number, bytes: Uint8Array, position?: number): void {
  for (let done = 0; done < bytes.length; ) {
    try {
      const at = position === undefined ? null : position + done;
      done += writeSync(file, bytes, done, bytes.length - done, at);
    } catch (error) {
      // Someone else has set the pipe not to block.
      if (systemCode(error) !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, WAIT_MS);
    }
  }
}
