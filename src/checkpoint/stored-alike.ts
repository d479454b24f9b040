// Whether two stored tensors hold the same bytes, without reading gigabytes.

import { withFile } from '../files/byte-source.js';
import type { StoredTensor } from './checkpoint.js';

/** Tensors of up to so many bytes are compared whole, larger ones in pieces of so many bytes together, spread evenly. */
const COMPARED_BYTES = 32 * 1024 * 1024;
const PIECE_BYTES = 256 * 1024;

/**
 * Says yes to large tensors that differ in few places only, so nothing but a warning may depend on it.
 * @param files of `StoredTensor.fileIndex`. Errors: NOT_FOUND, READ_FAILED, FILE_CHANGED
 */
export async function storedAlike(
  files: readonly string[],
  a: StoredTensor,
  b: StoredTensor,
): Promise<boolean> {
  if (a.dtype !== b.dtype || a.sizeBytes !== b.sizeBytes) return false;
  if (a.fileIndex === b.fileIndex && a.fileOffset === b.fileOffset) return true;
  const [fileA, fileB] = [files[a.fileIndex] ?? '', files[b.fileIndex] ?? ''];
  return withFile(fileA, 'BAD_SAFETENSORS', (sourceA) =>
    withFile(fileB, 'BAD_SAFETENSORS', async (sourceB) => {
      for (const offset of pieceOffsets(a.sizeBytes)) {
        const bytes = Math.min(PIECE_BYTES, a.sizeBytes - offset);
        const [left, right] = await Promise.all([
          sourceA.read(a.fileOffset + offset, bytes),
          sourceB.read(b.fileOffset + offset, bytes),
        ]);
        if (!left.equals(right)) return false;
      }
      return true;
    }),
  );
}

/** The first and the last piece are always among them. */
export function pieceOffsets(sizeBytes: number): number[] {
  const all = Math.ceil(sizeBytes / PIECE_BYTES);
  const count = Math.min(all, COMPARED_BYTES / PIECE_BYTES);
  const last = Math.max(0, sizeBytes - PIECE_BYTES);
  if (count === all) return Array.from({ length: all }, (_, i) => i * PIECE_BYTES);
  return Array.from({ length: count }, (_, i) => Math.floor((last / (count - 1)) * i));
}
