// A temporary file of random bytes, to measure a drive with.

import { randomFillSync, randomUUID } from 'node:crypto';
import { constants, statfsSync } from 'node:fs';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { formatBytes, MiB, OperatingError, roundDown } from '../../offload/index.js';
import { reason, systemCode } from './failure-reason.js';

export interface Probe {
  /** At most; and at most a quarter of the free space. */
  readonly sizeBytes: number;
  /** What to do where no such file can be written. */
  readonly advice: string;
}

const SMALLEST_PROBE_BYTES = 16 * MiB;

/** Linux's number on x86-64, which Node does not tell. */
const O_TMPFILE = constants.O_DIRECTORY | 0o20000000;

/** A file without a name: whatever ends this process, its bytes are free again. */
async function openNameless(folder: string): Promise<FileHandle> {
  try {
    return await open(folder, constants.O_RDWR | O_TMPFILE, 0o600);
  } catch (error) {
    if (!['EOPNOTSUPP', 'EISDIR', 'EINVAL', 'ENOENT'].includes(systemCode(error) ?? '')) throw error;
  }
  // Some file systems, such as a network's, give every file a name from the beginning.
  const path = join(folder, `.zero-inference-probe-${randomUUID()}`);
  const file = await open(path, 'wx+', 0o600);
  await unlink(path);
  return file;
}

/** Random bytes, so that no drive can compress them; flushed, so that reads find them on the drive. */
export async function writeProbeFile(
  folder: string,
  { sizeBytes: mostBytes, advice }: Probe,
  signal?: AbortSignal,
): Promise<FileHandle> {
  const { bavail, bsize } = statfsSync(folder);
  const sizeBytes = roundDown(Math.min(mostBytes, (bavail * bsize) / 4), MiB);
  if (sizeBytes < SMALLEST_PROBE_BYTES) {
    throw new OperatingError(
      'NO_SPACE',
      `${folder} has ${formatBytes(bavail * bsize)} free, too little to measure the drive with a file: free some, or ${advice}`,
    );
  }
  let file: FileHandle | undefined;
  try {
    file = await openNameless(folder);
    const chunk = randomFillSync(Buffer.allocUnsafe(8 * MiB));
    for (let written = 0; written < sizeBytes; written += chunk.length) {
      signal?.throwIfAborted();
      // No two chunks are alike: some drives store what they have seen before only once.
      chunk.writeUInt32LE(written / MiB, 0);
      await file.write(chunk, 0, Math.min(chunk.length, sizeBytes - written));
    }
    await file.sync();
    return file;
  } catch (error) {
    await file?.close();
    if (signal?.aborted) throw error;
    throw writeFailed(folder, error, advice);
  }
}

function writeFailed(folder: string, error: unknown, advice: string): OperatingError {
  const full = systemCode(error) === 'ENOSPC';
  return new OperatingError(
    full ? 'NO_SPACE' : 'WRITE_FAILED',
    `no temporary file can be written in ${folder} (${reason(error)}): ${advice}`,
    { cause: error },
  );
}
