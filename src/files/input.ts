// Opens what a user names as input (a file, a pipe, a device, `-` for standard input) and reads it piece by piece.

import { constants, createReadStream, fstatSync, openSync, type Stats, statSync } from 'node:fs';
import { Socket } from 'node:net';
import { addAbortSignal, type Readable } from 'node:stream';
import { isatty, ReadStream } from 'node:tty';
import { OperatingError } from '../../offload/index.js';
import { reason, systemCode } from './json-file.js';

export interface InputName {
  /** `-` is standard input. */
  readonly path: string;
  /** Where the path came from, for messages. */
  readonly option: string;
  /** Ends the reading within a moment, also while nothing comes. */
  readonly signal?: AbortSignal | undefined;
}

export const STDIN = '-';

const PIECE_BYTES = 256 << 10;

/** The input as messages name it. */
export function shownName(path: string): string {
  return path === STDIN ? 'standard input' : path;
}

/** Someone gives input without being asked: a pipe, a socket, or a file that is not empty; no terminal, no device. */
export function stdinHasInput(): boolean {
  let found: Stats;
  try {
    found = fstatSync(0);
  } catch (error) {
    if (systemCode(error) === 'EBADF') return false; // closed
    throw new OperatingError('BAD_INPUT', `standard input cannot be looked at: ${reason(error)}`, {
      cause: error,
    });
  }
  return found.isFIFO() || found.isSocket() || (found.isFile() && found.size > 0);
}

/** Whether it comes when someone writes it, which may be never. */
export function mayWait(path: string): boolean {
  return path === STDIN || (look(path)?.isFIFO() ?? false);
}

/** Undefined for what cannot be looked at: reading it says why. */
function look(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

/** Whether reading it again gives the same. Files of /proc say that they are empty, and may change each time. */
export function isRereadable(path: string): boolean {
  if (path === STDIN) return false;
  const found = look(path);
  // What is no input at all is the same each time as well.
  return found === undefined || found.isDirectory() || (found.isFile() && found.size > 0);
}

/** The bytes as they come. Throws NOT_FOUND, or the signal's reason. */
export async function* readPieces({ path, option, signal }: InputName): AsyncGenerator<Buffer, void> {
  let stream: Readable | undefined;
  try {
    signal?.throwIfAborted();
    stream = path === STDIN ? process.stdin : openInput(path);
    if (signal) addAbortSignal(signal, stream);
    for await (const piece of stream) {
      signal?.throwIfAborted();
      yield piece as Buffer;
    }
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof OperatingError) throw error;
    throw unreadable(error, path, option);
  } finally {
    stream?.destroy();
  }
}

/** Opens a pipe without ever holding up a thread: it may have no writer for hours, and a thread that waits cannot end. */
function openInput(path: string): Readable {
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const found = fstatSync(file);
  if (found.isFIFO()) return new Socket({ fd: file, readable: true, writable: false });
  if (found.isCharacterDevice() && isatty(file)) return new ReadStream(file);
  return createReadStream('', { fd: file, highWaterMark: PIECE_BYTES });
}

/** The error for an input that the system did not open or read. */
export function unreadable(error: unknown, path: string, option: string): OperatingError {
  const code = systemCode(error);
  const absent = code === 'ENOENT' || code === 'ENOTDIR';
  const why = code === 'EISDIR' ? 'is a folder: give a file' : `cannot be read: ${reason(error)}`;
  return new OperatingError(
    'NOT_FOUND',
    absent ? `${option}: there is no file '${path}'` : `${option}: ${shownName(path)} ${why}`,
    { cause: error },
  );
}
