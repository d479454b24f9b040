// Reading ranges of a file whose size is known: what readers of headers need, and no more.

import type { FileHandle } from 'node:fs/promises';
import { type ErrorCode, OperatingError } from '../../offload/index.js';
import { reason } from './failure-reason.js';
import { openIfPresent } from './regular-file.js';

export interface ByteSource {
  /** For messages. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Exactly that range, which must lie within the file. Errors: READ_FAILED, FILE_CHANGED. */
  read(offset: number, bytes: number): Promise<Buffer>;
}

/** Calls `use` with the open file. Errors: NOT_FOUND, `badFile` when it is no regular file, and those of `use`. */
export async function withFile<T>(
  path: string,
  badFile: ErrorCode,
  use: (source: ByteSource) => Promise<T>,
): Promise<T> {
  const opened = await openIfPresent(path, badFile);
  if (!opened) throw new OperatingError('NOT_FOUND', `${path} cannot be opened: there is no such file`);
  const { file, sizeBytes } = opened;
  try {
    return await use({
      path,
      sizeBytes,
      read: (offset, bytes) => readExactly(file, path, offset, bytes),
    });
  } finally {
    await file.close();
  }
}

async function readExactly(file: FileHandle, path: string, offset: number, bytes: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(bytes);
  for (let done = 0; done < bytes; ) {
    const { bytesRead } = await file
      .read(buffer, done, bytes - done, offset + done)
      .catch((error: unknown) => {
        throw new OperatingError('READ_FAILED', `${path} cannot be read: ${reason(error)}`, { cause: error });
      });
    if (bytesRead === 0) {
      throw new OperatingError('FILE_CHANGED', `${path} shrank to ${offset + done} bytes while it was read`);
    }
    done += bytesRead;
  }
  return buffer;
}

/** Bytes in memory read like a file. */
export function sourceOf(bytes: Uint8Array, path: string): ByteSource {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    path,
    sizeBytes: bytes.byteLength,
    read: async (offset, count) => {
      if (offset < 0 || offset + count > bytes.byteLength) {
        throw new RangeError(`read of [${offset}, ${offset + count}) of ${bytes.byteLength} bytes`);
      }
      return buffer.subarray(offset, offset + count);
    },
  };
}
