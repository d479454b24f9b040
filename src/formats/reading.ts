// The reading of one matrix: what is stored beside a name, checked, and cut to the rows of the matrix that is wanted.

import {
  DTYPE_BYTES,
  type DType,
  type Extent,
  elementCount,
  type FloatType,
  type Format,
  OperatingError,
  type PartName,
  type Parts,
  sameShape,
  type TensorSpec,
} from '../../offload/index.js';
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import type { Declared } from './declared.js';
import type { Notes } from './notes.js';

/** What all matrices of a checkpoint are read with. */
export interface FormatContext {
  readonly checkpoint: Checkpoint;
  readonly declared: Declared;
  /** The model's type: what an expanded weight has. */
  readonly type: FloatType;
  readonly notes: Notes;
}

/** A matrix [N, K] as an architecture asks for it. */
export interface MatrixPlace {
  readonly key: string;
  /** What a checkpoint of plain values calls its tensor. */
  readonly name: string;
  readonly shape: readonly [number, number];
  /** That tensor's shape [rows, K], or [matrices, rows, K] where it holds several. */
  readonly whole: readonly number[];
  /** Which of the tensor's matrices it is, and its first row there. */
  readonly matrix: number;
  readonly row: number;
  /** Plain values are stored [K, N]. */
  readonly inputMajor: boolean;
}

/** How a matrix is stored. */
export interface StoredMatrix {
  readonly format: Format;
  readonly firstRow: number;
  readonly parts: Parts<TensorSpec>;
}

/** One part: the stored tensor [matrices, units, ...columns], each unit being of so many rows of the matrix. */
export interface PartShape {
  readonly dtype: DType;
  /** Rows of the matrix that share one row of the part. */
  readonly unitRows: number;
  /** Elements of `dtype` per row of the part. */
  readonly columns: number;
}

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
const FLOAT_TYPES: Readonly<Record<string, FloatType>> = { F32: 'f32', F16: 'f16', BF16: 'bf16' };

/** Why rows of a matrix cannot be taken out of a tensor that is stored [inputs, outputs]. */
export const SIDE_BY_SIDE = 'holds several matrices side by side, which are not taken apart';

export function floatTypeOf({ dtype }: StoredTensor): FloatType | undefined {
  return Object.hasOwn(FLOAT_TYPES, dtype) ? FLOAT_TYPES[dtype] : undefined;
}

export class Reading {
  readonly context: FormatContext;
  readonly place: MatrixPlace;
  /** The tensor of the matrix's own name. */
  readonly stored: StoredTensor | undefined;
  /** Names of all tensors that were found. */
  readonly used: string[] = [];

  constructor(context: FormatContext, place: MatrixPlace) {
    this.context = context;
    this.place = place;
    this.stored = this.find('');
  }

  /** `X` for `X.weight`; the name itself where it has no such ending. */
  get module(): string {
    return this.place.name.replace(/\.weight$/, '');
  }

  /** Rows of a stored matrix, of which the wanted one may be a part. */
  get rows(): number {
    return this.place.whole.at(-2) ?? 0;
  }

  get K(): number {
    return this.place.shape[1];
  }

  /** `X.weight_scale` for `X.weight` and `_scale`, `experts.down_proj_scale` for `experts.down_proj`. */
  named(suffix: string): string {
    return this.place.name + suffix;
  }

  /** `X.scales` for `X.weight` and `.scales`. */
  namedBeside(suffix: string): string {
    return this.module + suffix;
  }

  find(suffix: string): StoredTensor | undefined {
    return this.#found(this.named(suffix));
  }

  beside(suffix: string): StoredTensor | undefined {
    return this.#found(this.namedBeside(suffix));
  }

  /** The first of these names that there is, or MISSING_TENSOR. */
  need(codes: StoredTensor, ...names: readonly string[]): StoredTensor {
    for (const name of names) {
      const stored = this.#found(name);
      if (stored) return stored;
    }
    const { folder, unfound } = this.context.checkpoint;
    const promised = names.find((name) => unfound.has(name));
    throw new OperatingError(
      'MISSING_TENSOR',
      `${folder}: the checkpoint has no tensor ${names.join(' or ')}, without which the ${codes.dtype} values of ` +
        `${codes.name} mean nothing` +
        (promised === undefined
          ? ''
          : `; the index puts it into ${unfound.get(promised)}, which does not hold it: download that file again`),
    );
  }

  /** An error that begins with the file and the tensor. */
  fault(
    code: 'WRONG_SHAPE' | 'UNSUPPORTED' | 'BAD_WEIGHTS',
    { name, fileIndex }: StoredTensor,
    problem: string,
  ): OperatingError {
    return new OperatingError(code, `${this.context.checkpoint.files[fileIndex]}: tensor ${name} ${problem}`);
  }

  /** The tensor's type as one of those allowed; `as` for a type that stands for another, as U8 may for F8_E8M0. */
  typeOf(stored: StoredTensor, allowed: readonly DType[], as: Readonly<Record<string, DType>> = {}): DType {
    const type = Object.hasOwn(as, stored.dtype) ? as[stored.dtype] : DTYPES[stored.dtype];
    if (type && allowed.includes(type)) return type;
    const names = Object.keys({ ...as, ...DTYPES }).filter((name) =>
      allowed.includes(as[name] ?? DTYPES[name] ?? 'i32'),
    );
    throw this.fault(
      'WRONG_SHAPE',
      stored,
      `is stored as ${stored.dtype}, but must be ${names.join(' or ')}`,
    );
  }

  /** Throws WRONG_SHAPE unless the tensor has one of these shapes, for one matrix; tensors of several have one more in front. */
  expectShape(stored: StoredTensor, shapes: readonly (readonly number[])[], what: string): void {
    const wholes = shapes.map((shape) => this.#wholeShape(shape));
    if (wholes.some((shape) => sameShape(stored.shape, shape))) return;
    throw this.fault(
      'WRONG_SHAPE',
      stored,
      `has shape [${stored.shape.join(', ')}], but ${what} need [${(wholes[0] ?? []).join(', ')}]`,
    );
  }

  /** Rows of a part that are whole for every row of the matrix from `alignRows` rows on: where its scales begin. */
  firstRow(alignRows: number): number {
    return this.place.row % alignRows;
  }

  /** The codes: exactly the wanted rows. */
  codes(stored: StoredTensor, dtype: DType, columns: number): TensorSpec {
    return this.#cut('codes', stored, { dtype, unitRows: 1, columns }, this.place.row);
  }

  /** Scales or zeros, from the row on at which their first unit begins. */
  perRow(part: PartName, stored: StoredTensor, shape: PartShape, alignRows = shape.unitRows): TensorSpec {
    return this.#cut(part, stored, shape, this.place.row - this.firstRow(alignRows));
  }

  /** A part that each of the tensor's matrices has one of. */
  perMatrix(part: PartName, stored: StoredTensor, dtype: DType, shape: readonly number[]): TensorSpec {
    const sizeBytes = elementCount(shape) * DTYPE_BYTES[dtype];
    const isShared = stored.sizeBytes === sizeBytes;
    return this.#spec(part, dtype, shape, {
      fileIndex: stored.fileIndex,
      fileOffset: stored.fileOffset + (isShared ? 0 : this.place.matrix * sizeBytes),
      sizeBytes,
    });
  }

  #found(name: string): StoredTensor | undefined {
    const stored = this.context.checkpoint.find(name);
    if (stored) this.used.push(name);
    return stored;
  }

  #wholeShape(shape: readonly number[]): readonly number[] {
    const { whole } = this.place;
    return whole.length === 3 ? [whole[0] ?? 0, ...shape] : shape;
  }

  #cut(
    part: PartName,
    stored: StoredTensor,
    { dtype, unitRows, columns }: PartShape,
    firstRow: number,
  ): TensorSpec {
    const { row, matrix, shape } = this.place;
    const rowBytes = columns * DTYPE_BYTES[dtype];
    const unitsEach = Math.ceil(this.rows / unitRows);
    const first = Math.floor(firstRow / unitRows);
    const count = Math.ceil((row + shape[0]) / unitRows) - first;
    return this.#spec(part, dtype, [count, columns], {
      fileIndex: stored.fileIndex,
      fileOffset: stored.fileOffset + (matrix * unitsEach + first) * rowBytes,
      sizeBytes: count * rowBytes,
    });
  }

  #spec(part: PartName, dtype: DType, shape: readonly number[], extent: Extent): TensorSpec {
    const { key } = this.place;
    return { key: part === 'codes' ? key : `${key} ${part}`, dtype, shape, extent };
  }
}

export function lcm(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return (a / x) * b;
}
