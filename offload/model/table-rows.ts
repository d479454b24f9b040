// Where a row of an embedding table lies in its file, and the room that an aligned read of it needs.

import { assert, OperatingError } from '../errors.js';
import { READ_ALIGNMENT_BYTES } from '../port/backend.js';
import { MiB, roundDown, roundUp } from '../units.js';
import type { Extent } from './layout.js';
import type { ModelSpec, RowTable } from './model.js';

/** A table that is to rest comes in such pieces. */
const TABLE_PIECE_BYTES = 8 * MiB;
/** One piece comes from the drive while another goes up to devices. */
export const TABLE_BUFFERS_BYTES = 2 * (TABLE_PIECE_BYTES + 2 * READ_ALIGNMENT_BYTES);

/** Those whose rows are tokens'. */
export function tokenTables({ tables }: Pick<ModelSpec, 'tables'>): RowTable[] {
  return tables.filter(({ rowsFrom }) => rowsFrom === 'token');
}

/** Bytes of a table that are read at once. */
export interface TablePiece {
  readonly table: RowTable;
  readonly firstByte: number;
  readonly sizeBytes: number;
}

/** All but the first begin in their file where a read may begin. */
export function tablePieces(table: RowTable): TablePiece[] {
  const { fileOffset, sizeBytes } = table.extent;
  const pieces: TablePiece[] = [];
  let firstByte = 0;
  while (firstByte < sizeBytes) {
    const end = roundDown(fileOffset + firstByte, READ_ALIGNMENT_BYTES) + TABLE_PIECE_BYTES - fileOffset;
    const bytes = Math.min(end, sizeBytes) - firstByte;
    pieces.push({ table, firstByte, sizeBytes: bytes });
    firstByte += bytes;
  }
  return pieces;
}

export function extentOf({ table, firstByte, sizeBytes }: TablePiece): Extent {
  return { ...table.extent, fileOffset: table.extent.fileOffset + firstByte, sizeBytes };
}

/** Where a table begins in memory that it is read into as it lies in its file. */
export function tableBeginsAt({ extent }: RowTable): number {
  return extent.fileOffset - roundDown(extent.fileOffset, READ_ALIGNMENT_BYTES);
}

/** What that memory has. */
export function tableHostBytes(table: RowTable): number {
  return roundUp(tableBeginsAt(table) + table.extent.sizeBytes, READ_ALIGNMENT_BYTES);
}

/** Throws BAD_INPUT for rows that a table lacks. */
export function checkRows({ key, rowCount }: RowTable, rows: Int32Array): void {
  const stray = rows.find((row) => row < 0 || row >= rowCount);
  if (stray === undefined) return;
  throw new OperatingError(
    'BAD_INPUT',
    `row ${stray} of the table of ${key} is wanted, which has ${rowCount} rows (0 to ${rowCount - 1})`,
  );
}

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
