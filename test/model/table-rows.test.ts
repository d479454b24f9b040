// Tables that come in pieces: every byte once, from where a read may begin.

import { describe, expect, it } from 'vitest';
import type { RowTable } from '../../offload/model/model.js';
import { tableBeginsAt, tableHostBytes, tablePieces } from '../../offload/model/table-rows.js';
import { READ_ALIGNMENT_BYTES } from '../../offload/port/backend.js';
import { MiB } from '../../offload/units.js';

function tableAt(fileOffset: number, sizeBytes: number): RowTable {
  return {
    key: 'tokens',
    dtype: 'bf16',
    rowCount: 1,
    columns: sizeBytes / 2,
    rowsFrom: 'token',
    rowOffset: 0,
    extent: { fileIndex: 0, fileOffset, sizeBytes },
  };
}

describe.each([
  [0, 2],
  [0, 8 * MiB],
  [4096, 20 * MiB + 6],
  [4094, 2],
  [4094, 4],
  [12_345, 8 * MiB],
  [3 * MiB + 10, 30 * MiB - 10],
])('a table at %i of %i bytes', (fileOffset, sizeBytes) => {
  const table = tableAt(fileOffset, sizeBytes);

  it('comes in pieces without gaps, all but the first from a place where a read may begin', () => {
    let next = 0;
    for (const { firstByte, sizeBytes: bytes } of tablePieces(table)) {
      expect(firstByte).toBe(next);
      expect(bytes).toBeGreaterThan(0);
      expect(bytes).toBeLessThanOrEqual(8 * MiB);
      if (firstByte > 0) expect((fileOffset + firstByte) % READ_ALIGNMENT_BYTES).toBe(0);
      next += bytes;
    }
    expect(next).toBe(sizeBytes);
  });

  it('has room where it is read in place, with what aligned reads bring beside it', () => {
    const begins = tableBeginsAt(table);
    expect((fileOffset - begins) % READ_ALIGNMENT_BYTES).toBe(0);
    expect(begins).toBeLessThan(READ_ALIGNMENT_BYTES);
    expect(tableHostBytes(table) % READ_ALIGNMENT_BYTES).toBe(0);
    expect(tableHostBytes(table)).toBeGreaterThanOrEqual(begins + sizeBytes);
    expect(tableHostBytes(table)).toBeLessThan(begins + sizeBytes + READ_ALIGNMENT_BYTES);
  });
});
