// Weights as views of memory: of values that are stored as they are, and some rows of any.

import { assert, present } from '../errors.js';
import { DTYPE_BYTES, isFloat } from './dtype.js';
import { formatOf } from './formats.js';
import type { Tensor, Weight } from './ops.js';
import { columns, dimension, rows } from './tensor.js';

/** A weight whose values are stored, x [N, K], or [K, N] when `inputMajor`. */
export function denseWeight(x: Tensor, inputMajor = false): Weight {
  const { dtype } = x;
  assert(isFloat(dtype), 'a dense weight has a float type');
  const [first, second] = [dimension(x, 0), dimension(x, 1)];
  return {
    format: formatOf(inputMajor ? 'dense_in' : 'dense', dtype),
    shape: inputMajor ? [second, first] : [first, second],
    firstRow: 0,
    parts: { codes: x },
  };
}

/** `count` rows (outputs) of a weight, from `first` on; scales and zeros stay whole. */
export function weightRows(weight: Weight, first: number, count: number): Weight {
  const { format, shape, firstRow, parts } = weight;
  const [N, K] = shape;
  assert(first + count <= N, 'rows lie inside the weight');
  const codes = codeRows(weight, present(parts.codes, 'codes'), first, count);
  const isDense = format.name === 'dense' || format.name === 'dense_in';
  return {
    format,
    shape: [count, K],
    firstRow: isDense ? 0 : firstRow + first,
    parts: { ...parts, codes },
  };
}

function codeRows({ format, shape }: Weight, codes: Tensor, first: number, count: number): Tensor {
  const [, K] = shape;
  switch (format.name) {
    case 'dense':
    case 'e4m3':
    case 'int8':
    case 'packed8':
    case 'packed4':
    case 'fp4':
      return rows(codes, first, count);
    case 'dense_in':
    case 'gptq':
    case 'e4m3_in':
      return columns(codes, first, count);
    case 'awq':
      assert(first % 8 === 0 && count % 8 === 0, 'eight rows share a word of codes');
      return columns(codes, first / 8, count / 8);
    case 'table4': {
      assert((first * K) % 2 === 0, 'two values share a byte of codes');
      const skipped = (first * K) / 2;
      return {
        ...codes,
        offsetBytes: codes.offsetBytes + skipped * DTYPE_BYTES[codes.dtype],
        shape: [Math.ceil((count * K) / 2)],
      };
    }
  }
}
