// Tensors of files from numbers, in every type that parts of weights have.

import { DTYPE_BYTES, type DType, elementCount } from '../../offload/port/dtype.js';
import type { TestTensor } from '../helpers/safetensors.js';
import { roundTo } from '../native/reference-weights.js';
import { write } from '../native/tensor-bytes.js';

const DTYPES: Readonly<Record<string, DType>> = {
  F32: 'f32',
  F16: 'f16',
  BF16: 'bf16',
  I32: 'i32',
  U8: 'u8',
  I8: 'i8',
  F8_E4M3: 'e4m3',
  F8_E8M0: 'e8m0',
};

/** Values are rounded to the type. U8 and I64 are numbers as well. */
export function tensorOf(
  name: string,
  dtype: string,
  shape: readonly number[],
  values: ArrayLike<number>,
): Required<TestTensor> {
  if (values.length !== elementCount(shape))
    throw new Error(`${name}: ${values.length} values for [${shape}]`);
  if (dtype === 'I64') {
    const data = new Uint8Array(BigInt64Array.from(Array.from(values, BigInt)).buffer);
    return { name, dtype, shape, data };
  }
  const type = DTYPES[dtype];
  if (!type) throw new Error(`no tensors of ${dtype} are made`);
  return { name, dtype, shape, data: bytesOf(type, values) };
}

export function bytesOf(dtype: DType, values: ArrayLike<number>): Uint8Array {
  const sizeBytes = values.length * DTYPE_BYTES[dtype];
  const view = new DataView(new ArrayBuffer(sizeBytes));
  const isFloat = dtype === 'f32' || dtype === 'f16' || dtype === 'bf16';
  for (let i = 0; i < values.length; i++) {
    const value = values[i] ?? 0;
    write(dtype, view, i * DTYPE_BYTES[dtype], isFloat ? roundTo(dtype, value) : value);
  }
  return new Uint8Array(view.buffer);
}

/** Rows of codes as little-endian streams of bits, each row filled up to whole words. */
export function packedRows(rows: readonly ArrayLike<number>[], bits: number): number[] {
  return rows.flatMap((row) => {
    const words = new Array<number>(Math.ceil((row.length * bits) / 32)).fill(0);
    for (let i = 0; i < row.length; i++) {
      for (let bit = 0; bit < bits; bit++) {
        const at = i * bits + bit;
        if (((row[i] ?? 0) >> bit) & 1) words[at >> 5] = (words[at >> 5] ?? 0) | (1 << (at & 31));
      }
    }
    return words;
  });
}

/** [rows, columns] → [columns, rows]. */
export function transposed(values: ArrayLike<number>, rows: number, columns: number): number[] {
  return Array.from(
    { length: rows * columns },
    (_, i) => values[(i % rows) * columns + Math.floor(i / rows)] ?? 0,
  );
}
