// Measures a drive through the read engine: its rate for large pieces, and how long a small one takes.

import type { Backend, HostMemory } from '../port/backend.js';
import { MiB, roundDown } from '../units.js';
import { detectHardware } from './hardware.js';
import { median } from './median.js';

export interface DriveMeasurement {
  readonly bytesPerSecond: number;
  readonly latencyMs: number;
  readonly bytes: number;
  /** The page cache was bypassed. */
  readonly direct: boolean;
}

/** What reads files, with devices or without. */
export type DriveReader = Pick<Backend, 'allocateHost' | 'nowMs' | 'openFile' | 'read'>;

const DRIVE_BUFFERS = 4;
const DRIVE_BUFFER_BYTES = 32 * MiB;
const SMALL_BYTES = 4096;
const SMALL_READS = 20;

/**
 * Streams the file as layers are streamed, until `maxMs` have passed or all of it was read, then asks for small
 * pieces one by one. Rejects with an OperatingError.
 */
export async function measureDrive(
  backend: DriveReader,
  path: string,
  maxMs: number,
): Promise<DriveMeasurement> {
  const file = backend.openFile(path);
  const usable = roundDown(file.sizeBytes, SMALL_BYTES);
  const affordable = roundDown(detectHardware().dramAvailableBytes / (4 * DRIVE_BUFFERS), MiB);
  const pieceBytes = Math.min(DRIVE_BUFFER_BYTES, Math.max(MiB, affordable), usable);
  const read = (into: HostMemory, fileOffset: number, sizeBytes: number) =>
    backend.read([{ file, fileOffset, sizeBytes, requiredBytes: sizeBytes, memoryOffset: 0 }], into);
  const startMs = backend.nowMs();
  let [nextOffset, bytes, latencies] = [0, 0, [] as number[]];
  const buffers = Array.from({ length: DRIVE_BUFFERS }, () => backend.allocateHost(pieceBytes, 'stream'));
  const beganMs = backend.nowMs();
  await Promise.all(
    buffers.map(async (buffer) => {
      while (nextOffset + pieceBytes <= usable && backend.nowMs() - startMs < maxMs) {
        const offset = nextOffset;
        nextOffset += pieceBytes;
        await read(buffer, offset, pieceBytes);
        bytes += pieceBytes;
      }
    }),
  );
  const seconds = (backend.nowMs() - beganMs) / 1e3;
  const [buffer] = buffers;
  for (let i = 0; buffer && i < SMALL_READS; i++) {
    const offset = roundDown(((i * 0.618) % 1) * (usable - SMALL_BYTES), SMALL_BYTES);
    const span = await read(buffer, offset, SMALL_BYTES);
    latencies.push(span.endMs - span.startMs);
  }
  return { bytesPerSecond: bytes / seconds, latencyMs: median(latencies), bytes, direct: file.direct };
}
