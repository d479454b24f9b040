// Views: other shapes of the same bytes. Nothing here moves data.

import { assert, present } from '../errors.js';
import { DTYPE_BYTES, type DType } from './dtype.js';
import { contiguousStrides, type Memory, type Tensor } from './ops.js';

/** A row-major tensor at an offset of a memory. */
export function tensor(memory: Memory, offsetBytes: number, dtype: DType, shape: readonly number[]): Tensor {
  return { memory, offsetBytes, dtype, shape, strides: contiguousStrides(shape) };
}

export function dimension(x: Tensor, index: number): number {
  return present(x.shape[index], `dimension ${index}`);
}

/** [T, N] → its columns [T, count] from `first`; rows keep their distance. */
export function columns(x: Tensor, first: number, count: number): Tensor {
  assert(x.shape.length === 2 && first + count <= dimension(x, 1), 'columns lie inside the tensor');
  return {
    ...x,
    offsetBytes: x.offsetBytes + first * DTYPE_BYTES[x.dtype],
    shape: [dimension(x, 0), count],
  };
}

/** [T, N] → its rows [count, N] from `first`. */
export function rows(x: Tensor, first: number, count: number): Tensor {
  assert(first + count <= dimension(x, 0), 'rows lie inside the tensor');
  const rowStride = present(x.strides[0], 'row stride');
  return {
    ...x,
    offsetBytes: x.offsetBytes + first * rowStride * DTYPE_BYTES[x.dtype],
    shape: [count, ...x.shape.slice(1)],
  };
}

/**
 * [T, N] → [T, heads, headDim]: head h begins at column `first + h · spacing` (`spacing` is headDim where heads
 * follow each other, more where queries, keys and values of a head are interleaved).
 */
export function heads(x: Tensor, count: number, headDim: number, first = 0, spacing = headDim): Tensor {
  assert(
    x.shape.length === 2 && first + (count - 1) * spacing + headDim <= dimension(x, 1),
    'heads fit the row',
  );
  return {
    ...x,
    offsetBytes: x.offsetBytes + first * DTYPE_BYTES[x.dtype],
    shape: [dimension(x, 0), count, headDim],
    strides: [present(x.strides[0], 'row stride'), spacing, 1],
  };
}

/** [T, heads, D] → [T, heads, count]: of each head what begins at `first`. */
export function headPart(x: Tensor, first: number, count: number): Tensor {
  assert(x.shape.length === 3 && first + count <= dimension(x, 2), 'the part lies inside the head');
  return {
    ...x,
    offsetBytes: x.offsetBytes + first * DTYPE_BYTES[x.dtype],
    shape: [dimension(x, 0), dimension(x, 1), count],
  };
}
