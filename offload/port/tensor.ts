// Views: other shapes of the same bytes. Nothing here moves data.

import { assert, present } from '../errors.js';
import { DTYPE_BYTES, type DType, elementCount } from './dtype.js';
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

/** [T, G, r · D] → [T, G, r, D]: heads that lie beside each other in a group. */
export function splitHeads(x: Tensor, count: number): Tensor {
  const [tokens = 0, groups = 0, all = 0] = x.shape;
  assert(x.shape.length === 3 && all % count === 0, 'a group is cut into equal heads');
  const [perToken = 0, perGroup = 0] = x.strides;
  return { ...x, shape: [tokens, groups, count, all / count], strides: [perToken, perGroup, all / count, 1] };
}

/** `count` elements of the innermost dimension from `first` on; strides stay. */
export function innermost(x: Tensor, first: number, count: number): Tensor {
  assert(first + count <= (x.shape.at(-1) ?? 0), 'elements lie inside the innermost dimension');
  const offsetBytes = x.offsetBytes + first * DTYPE_BYTES[x.dtype];
  return { ...x, offsetBytes, shape: [...x.shape.slice(0, -1), count] };
}

/** Another shape of as many elements, which lie without gaps. */
export function reshaped(x: Tensor, shape: readonly number[]): Tensor {
  const dense = contiguousStrides(x.shape).every((stride, d) => stride === x.strides[d] || x.shape[d] === 1);
  assert(dense && elementCount(x.shape) === elementCount(shape), 'a tensor without gaps keeps its elements');
  return { ...x, shape, strides: contiguousStrides(shape) };
}
