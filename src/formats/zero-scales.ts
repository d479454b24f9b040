// Whether a scale of zero belongs to codes that are not: the codes of its group are read and compared with zero.

import type { FormatName, MatrixSpec } from '../../offload/index.js';
import { withFile } from '../files/byte-source.js';

/** Rows of a block that are looked at. */
const MOST_ROWS = 128;
/** Where inputs follow each other: how a byte of codes looks in which no code is set, as a mask of bits and their value. */
const EMPTY_BYTE: { readonly [Name in FormatName]?: readonly [mask: number, value: number] } = {
  e4m3: [0x7f, 0],
  int8: [0xff, 0],
  packed8: [0xff, 0x80],
  packed4: [0xff, 0x88],
  fp4: [0x77, 0],
};
const CODES_PER_BYTE: { readonly [Name in FormatName]?: number } = { packed4: 2, fp4: 2 };

/**
 * Formats with zeros of their own and with scattered groups are not looked into: their makers write such scales nowhere.
 * bitsandbytes does for rows and blocks of zeros, and leaves the codes as they come.
 * @param index of the scale in its tensor
 */
export async function zeroScaleHidesCodes(
  files: readonly string[],
  { format, shape, firstRow, parts }: MatrixSpec,
  index: number,
): Promise<boolean> {
  const { codes, scales } = parts;
  const empty = EMPTY_BYTE[format.name];
  if (!codes || !scales || !empty || parts.zeros || parts.groups || format.factor !== 1) return false;
  if (format.name === 'packed4' || format.name === 'packed8') {
    // Padding after the last input holds whatever it was packed with.
    if (shape[1] % 8 !== 0) return false;
  }
  const [N, K] = shape;
  const perByte = CODES_PER_BYTE[format.name] ?? 1;
  if (format.inputGroup < K && format.inputGroup % perByte !== 0) return false;
  const columns = scales.shape[1] ?? 1;
  const [r, g] = [Math.floor(index / columns), index % columns];
  const firstOwn = Math.max(0, r * format.rowGroup - firstRow);
  const lastOwn = Math.min(N, (r + 1) * format.rowGroup - firstRow, firstOwn + MOST_ROWS);
  const from = Math.floor((g * format.inputGroup) / perByte);
  const to = Math.ceil(Math.min(K, (g + 1) * format.inputGroup) / perByte);
  const rowBytes = codes.extent.sizeBytes / N;
  const { fileIndex, fileOffset } = codes.extent;
  return withFile(files[fileIndex] ?? '', 'BAD_SAFETENSORS', async ({ read }) => {
    for (let row = firstOwn; row < lastOwn; row++) {
      const bytes = await read(fileOffset + row * rowBytes + from, to - from);
      if (bytes.some((byte) => (byte & empty[0]) !== empty[1])) return true;
    }
    return false;
  });
}
