// Where a row of an embedding table lies in its file, and the room that an aligned read of it needs.

import { assert } from '../errors.js';
import { READ_ALIGNMENT_BYTES } from '../port/backend.js';
import { roundDown, roundUp } from '../units.js';
import type { RowTable } from './model.js';

/** Where a row lies: the aligned start of the read that fetches it, and its offset in what is read. */
export function rowPlace(
  table: RowTable,
  row: number,
): { start: number; offsetInSlot: number; rowBytes: number } {
  assert(row >= 0 && row < table.rowCount, 'a row lies inside its table');
  const rowBytes = table.extent.sizeBytes / table.rowCount;
  const fileOffset = table.extent.fileOffset + row * rowBytes;
  const start = roundDown(fileOffset, READ_ALIGNMENT_BYTES);
  return { start, offsetInSlot: fileOffset - start, rowBytes };
}

/** Bytes that one row needs in a host buffer: the aligned superset of any row. */
export function rowSlotBytes(table: RowTable): number {
  const rowBytes = table.extent.sizeBytes / table.rowCount;
  return roundUp(rowBytes + READ_ALIGNMENT_BYTES - 1, READ_ALIGNMENT_BYTES);
}
