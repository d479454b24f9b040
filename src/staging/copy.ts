// Copies one large file so that a killed copy can go on, and hashes content on the way.
//
// Reads and writes are of 8 MiB, one read ahead of the write, through the page cache: Node cannot ask the kernel to
// drop pages. Syncing every 256 MiB keeps them clean, so that the kernel can drop them at once when memory is needed.

import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, rename, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { cannotOpen, MiB, OperatingError } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { reason } from '../files/json-file.js';
import { type SourceState, sameState, sourceState, syncFolder, writeFailure } from './manifest.js';

export interface Work {
  readonly signal?: AbortSignal | undefined;
  /** Bytes done since the last call. */
  readonly onBytes: (bytes: number) => void;
}

export const CHUNK_BYTES = 8 * MiB;
export const SYNC_BYTES = 256 * MiB;

/** SHA-256 of the file's content, in hex. */
export async function hashFile(source: SourceState, work: Work): Promise<string> {
  const file = await openSource(source);
  try {
    const hash = createHash('sha256');
    for await (const { bytes } of chunksOf(file, source, 0, work.signal)) {
      hash.update(bytes);
      work.onBytes(bytes.byteLength);
    }
    if (!sameState(source, await sourceState(source.path)))
      throw changed(source, 'changed while it was compared');
    return hash.digest('hex');
  } finally {
    await file.close();
  }
}

/** Copies `source` to `target` by way of `target.partial`, going on from one that is there. Returns the SHA-256. */
export async function copyFile(source: SourceState, target: string, work: Work): Promise<string> {
  const partial = `${target}.partial`;
  const from = await openSource(source);
  try {
    const to = await openTarget(partial);
    try {
      const hash = createHash('sha256');
      const copying = { from, to, source, partial, hash, work };
      await copyRest(copying, await hashEqualPrefix(copying));
      // What was hashed must be what the manifest will name.
      if (!sameState(source, await sourceState(source.path)))
        throw changed(source, 'changed while it was copied');
      await rename(partial, target);
      await syncFolder(dirname(target));
      return hash.digest('hex');
    } catch (error) {
      throw writeFailure(partial, error);
    } finally {
      await to.close();
    }
  } finally {
    await from.close();
  }
}

type Hash = ReturnType<typeof createHash>;

interface Copying {
  readonly from: FileHandle;
  readonly to: FileHandle;
  readonly source: SourceState;
  /** The name of `to`, for messages. */
  readonly partial: string;
  readonly hash: Hash;
  readonly work: Work;
}

/**
 * How much of an earlier attempt can stay: whole chunks that equal the source's, each hashed. A killed copy may have
 * left anything behind, and the source may be another one now, so nothing is taken on trust.
 */
async function hashEqualPrefix({ from, to, source, partial, hash, work }: Copying): Promise<number> {
  const { size } = await to.stat();
  if (size < CHUNK_BYTES && size !== source.sizeBytes) return 0;
  const there = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  let equalBytes = 0;
  for await (const { bytes, offset } of chunksOf(from, source, 0, work.signal)) {
    const end = offset + bytes.byteLength;
    if (end > size) break;
    await readFully(to, there.subarray(0, bytes.byteLength), offset, partial);
    if (!there.subarray(0, bytes.byteLength).equals(bytes)) break;
    hash.update(bytes);
    work.onBytes(bytes.byteLength);
    equalBytes = end;
  }
  return equalBytes;
}

async function copyRest({ from, to, source, hash, work }: Copying, start: number): Promise<void> {
  await to.truncate(start);
  let unsyncedBytes = 0;
  for await (const { bytes, offset } of chunksOf(from, source, start, work.signal)) {
    const writing = writeFully(to, bytes, offset);
    hash.update(bytes); // beside the write and the next read
    await writing;
    work.onBytes(bytes.byteLength);
    unsyncedBytes += bytes.byteLength;
    if (unsyncedBytes < SYNC_BYTES) continue;
    await to.datasync();
    unsyncedBytes = 0;
  }
  await to.sync();
}

/** The file in chunks from `start`, reading one ahead. A chunk's memory is used again after the next one is taken. */
export async function* chunksOf(
  file: FileHandle,
  source: SourceState,
  start: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ readonly bytes: Buffer; readonly offset: number }> {
  const buffers = [Buffer.allocUnsafeSlow(CHUNK_BYTES), Buffer.allocUnsafeSlow(CHUNK_BYTES)];
  const read = (offset: number): Promise<Buffer> => {
    const memory = buffers.reverse()[0] ?? Buffer.alloc(0);
    const bytes = memory.subarray(0, Math.min(CHUNK_BYTES, source.sizeBytes - offset));
    const reading = readFully(file, bytes, offset, source.path).then(() => bytes);
    reading.catch(() => undefined); // awaited below, or not at all when the consumer stops early
    return reading;
  };
  let ahead = start < source.sizeBytes ? read(start) : undefined;
  try {
    for (let offset = start; ahead; ) {
      const bytes = await ahead;
      const next = offset + bytes.byteLength;
      ahead = next < source.sizeBytes ? read(next) : undefined;
      if (signal?.aborted)
        throw new OperatingError('INTERRUPTED', `stopped at byte ${offset} of ${source.path}`);
      yield { bytes, offset };
      offset = next;
    }
  } finally {
    // The file must not be closed, nor the memory be freed, under a read.
    await ahead?.catch(() => undefined);
  }
}

export async function openSource(source: SourceState): Promise<FileHandle> {
  try {
    return await open(source.path, 'r');
  } catch (error) {
    throw cannotOpen(source.path, error);
  }
}

async function openTarget(path: string): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDWR | constants.O_CREAT, 0o644);
  } catch (error) {
    throw writeFailure(path, error);
  }
}

export async function readFully(file: FileHandle, into: Buffer, offset: number, path: string): Promise<void> {
  for (let done = 0; done < into.byteLength; ) {
    const bytesRead = await file.read(into, done, into.byteLength - done, offset + done).then(
      (result) => result.bytesRead,
      (error: unknown) => {
        throw new OperatingError(
          'READ_FAILED',
          `${path} cannot be read at byte ${offset + done}: ${reason(error)}`,
          {
            cause: error,
          },
        );
      },
    );
    if (bytesRead === 0) throw new OperatingError('FILE_CHANGED', `${path} shrank to ${offset + done} bytes`);
    done += bytesRead;
  }
}

export async function writeFully(file: FileHandle, bytes: Buffer, offset: number): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.byteLength - done, offset + done);
    done += bytesWritten;
  }
}

export function changed(source: SourceState, what: string): OperatingError {
  return new OperatingError('FILE_CHANGED', `${source.path} ${what}: start again when it is complete`);
}

/** Size of a file that may be absent. */
export async function sizeOf(path: string): Promise<number> {
  return (await ifThere(path, stat(path)))?.size ?? 0;
}
