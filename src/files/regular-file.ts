// Opening files of a checkpoint, which must be files: reading a pipe or a device would never end.

import { constants, type Stats } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { cannotOpen, type ErrorCode, OperatingError } from '../../offload/index.js';
import { reason, systemCode } from './failure-reason.js';
import { readWhole } from './read-whole.js';

export interface RegularFile {
  readonly file: FileHandle;
  readonly sizeBytes: number;
}

/**
 * Undefined where there is none. To be closed by the caller.
 * Errors: NOT_FOUND or SYSTEM_LIMIT when it cannot be opened, `badFile` when it is something else than a file.
 */
export async function openIfPresent(path: string, badFile: ErrorCode): Promise<RegularFile | undefined> {
  let file: FileHandle;
  try {
    // Opening a pipe would otherwise wait for whoever writes to it.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    if (systemCode(error) === 'ENXIO')
      throw notRegular(path, badFile, 'a socket or a device without a driver');
    throw cannotOpen(path, error);
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw notRegular(path, badFile, kindOf(stat));
    return { file, sizeBytes: stat.size };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function notRegular(path: string, code: ErrorCode, kind: string): OperatingError {
  return new OperatingError(code, `${path} is ${kind}, not a regular file: a checkpoint consists of files`);
}

function kindOf(stat: Stats): string {
  if (stat.isDirectory()) return 'a folder';
  if (stat.isFIFO()) return 'a pipe';
  return stat.isCharacterDevice() || stat.isBlockDevice() ? 'a device' : 'something else';
}

/**
 * The whole of a file that is small by its nature; undefined where there is none.
 * Errors: NOT_FOUND, and `badFile` when it is no file or larger than `maxBytes`.
 */
export async function readSmallFile(
  path: string,
  maxBytes: number,
  badFile: ErrorCode,
): Promise<Buffer | undefined> {
  const opened = await openIfPresent(path, badFile);
  if (!opened) return undefined;
  const { file, sizeBytes } = opened;
  try {
    if (sizeBytes > maxBytes) {
      throw new OperatingError(
        badFile,
        `${path} has ${sizeBytes} bytes, above the limit of ${maxBytes} for such a file`,
      );
    }
    const buffer = Buffer.allocUnsafe(sizeBytes);
    return buffer.subarray(0, await readWhole(file, buffer, 0));
  } catch (error) {
    if (error instanceof OperatingError) throw error;
    throw new OperatingError('NOT_FOUND', `${path} cannot be read: ${reason(error)}`, { cause: error });
  } finally {
    await file.close();
  }
}
