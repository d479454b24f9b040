// Some rows of a stored matrix as a matrix of its own: its codes exactly, and of scales and zeros what those rows need.

import { assert, present } from '../errors.js';
import { DTYPE_BYTES, elementCount } from '../port/dtype.js';
import type { PartName } from '../port/formats.js';
import type { MatrixSpec, TensorSpec } from './layout.js';

const WORD_BITS = 32;
/** Scales of a scale, in a format whose scales are codes themselves. */
const NESTED_BLOCK = 256;

/** Rows of a tensor, as a tensor of its own. */
export function sliceRows(stored: TensorSpec, firstRow: number, count: number): TensorSpec {
  const [rowCount = 0, ...rest] = stored.shape;
  assert(firstRow + count <= rowCount, 'rows lie inside the tensor');
  const rowBytes = rest.reduce((product, size) => product * size, DTYPE_BYTES[stored.dtype]);
  return {
    ...stored,
    shape: [count, ...rest],
    extent: {
      fileIndex: stored.extent.fileIndex,
      fileOffset: stored.extent.fileOffset + firstRow * rowBytes,
      sizeBytes: count * rowBytes,
    },
  };
}

/** Cuts between rows may lie at multiples of this; undefined where rows lie side by side and cannot be cut at all. */
export function rowsBetweenCuts({ format, shape }: MatrixSpec): number | undefined {
  switch (format.name) {
    case 'dense':
    case 'e4m3':
    case 'int8':
    case 'packed8':
    case 'packed4':
    case 'fp4':
      return 1;
    case 'table4':
      return shape[1] % 2 === 0 ? 1 : 2; // two codes a byte
    case 'dense_in':
    case 'awq':
    case 'gptq':
    case 'e4m3_in':
      return undefined;
  }
}

/** Rows [firstRow, firstRow + count) of a matrix; all of it where it cannot be cut. */
export function sliceMatrix(matrix: MatrixSpec, firstRow: number, count: number): MatrixSpec {
  const [N, K] = matrix.shape;
  if (firstRow === 0 && count === N) return matrix;
  const step = rowsBetweenCuts(matrix);
  assert(step !== undefined && firstRow % step === 0, 'a cut lies between rows');
  const from = matrix.firstRow + firstRow;
  const units = unitRows(matrix);
  const aligned = from - (from % Object.values(units).reduce(lcm, 1));
  const parts: { -readonly [Name in PartName]?: TensorSpec } = { ...matrix.parts };
  parts.codes = codeRows(matrix, firstRow, count);
  for (const name of ['scales', 'zeros', 'nestedScales'] as const) {
    const part = matrix.parts[name];
    const rows = units[name];
    if (!part || rows === undefined) continue;
    const perUnit = elementsPerUnit(matrix, name);
    const total = elementCount(part.shape);
    const first = (aligned / rows) * perUnit;
    const end = name === 'scales' || name === 'zeros' ? lastElement(matrix, name, from + count) : total;
    parts[name] = sliceElements(part, first, Math.min(total, end) - first);
  }
  return { ...matrix, shape: [count, K], firstRow: from - aligned, parts };
}

/** Rows of the matrix after which each part begins a row, or a block, of its own. */
function unitRows({ format, shape, parts }: MatrixSpec): { readonly [Name in PartName]?: number } {
  const [, K] = shape;
  if (format.name === 'dense') return {};
  if (format.name === 'table4') {
    // Blocks are of the flat matrix: after so many rows one begins where a row does.
    const rows = (values: number) => values / gcd(values, K);
    const scales = rows(format.inputGroup);
    return parts.nestedScales
      ? {
          scales: rows(format.inputGroup * NESTED_BLOCK),
          nestedScales: rows(format.inputGroup * NESTED_BLOCK),
        }
      : { scales };
  }
  const perWord = format.name === 'packed4' ? WORD_BITS / 4 : format.name === 'packed8' ? WORD_BITS / 8 : 0;
  const scales = format.rowGroup;
  return parts.zeros ? { scales, zeros: perWord || scales } : { scales };
}

function elementsPerUnit(matrix: MatrixSpec, name: 'scales' | 'zeros' | 'nestedScales'): number {
  const { format, shape, parts } = matrix;
  if (format.name !== 'table4') return present(parts[name]?.shape[1], `columns of ${name}`);
  const values = present(unitRows(matrix)[name], name) * shape[1];
  return values / (name === 'nestedScales' ? format.inputGroup * NESTED_BLOCK : format.inputGroup);
}

/** One behind the last element that rows before `endRow` need. */
function lastElement(matrix: MatrixSpec, name: 'scales' | 'zeros', endRow: number): number {
  const { format, shape } = matrix;
  if (format.name === 'table4') return Math.ceil((endRow * shape[1]) / format.inputGroup);
  return Math.ceil(endRow / present(unitRows(matrix)[name], name)) * elementsPerUnit(matrix, name);
}

function codeRows({ format, shape, parts }: MatrixSpec, firstRow: number, count: number): TensorSpec {
  const codes = present(parts.codes, 'codes');
  const [, K] = shape;
  if (format.name !== 'table4') return sliceRows(codes, firstRow, count);
  return sliceElements(codes, (firstRow * K) / 2, Math.ceil((count * K) / 2));
}

/** Elements that follow each other; of a tensor with two dimensions whole rows. */
function sliceElements(stored: TensorSpec, first: number, count: number): TensorSpec {
  const [, columns] = stored.shape;
  if (columns !== undefined) return sliceRows(stored, first / columns, count / columns);
  return sliceRows(stored, first, count);
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

function lcm(a: number, b: number): number {
  return (a / gcd(a, b)) * b;
}
