// What kernel tests of every device share: tensors at awkward places, and comparing an operation with its reference.

import { expect } from 'vitest';
import { DTYPE_BYTES, type DType } from '../../offload/port/dtype.js';
import type { Activation, Op, Tensor } from '../../offload/port/ops.js';
import { randomFrom, randomInt } from '../helpers/random.js';
import { expectedOf } from './expected.js';
import { TestMemory } from './tensor-bytes.js';

export const WEIGHT_TYPES: readonly DType[] = ['f32', 'f16', 'bf16'];
/** Keys and values as floats have none. */
export const NO_SCALES = { keyScales: null, valueScales: null } as const;
export const ACTIVATIONS: readonly Activation[] = [
  'none',
  'relu',
  'gelu',
  'gelu_tanh',
  'gelu_quick',
  'silu',
  'relu2',
];

/** What kernels are run on, and how exact they are there. */
export interface KernelDevice {
  readonly kind: 'cpu' | 'cuda';
  /** Placings of operands that kernels tell apart: awkward ones (true), aligned ones as device layouts have (false). */
  readonly placings: readonly boolean[];
  /** Default: awkward places. */
  workbench(seed: number, awkward?: boolean): Workbench;
  run(op: Op, bench: Workbench): Promise<void>;
  /** Threads of what runs next, where the device has a choice. */
  use(threads?: number): void;
  /** The error that a product may have, as a share of its largest result. */
  productTolerance(dtype: DType): number;
  /** Inputs that products with such weights do not round, which a device may do. */
  productInput(bench: Workbench, dtype: DType, shape: readonly number[]): Tensor;
}

/** Bytes by which a tensor lies beside a multiple of 64, drawn for each; `dtype` of a weight or an activation. */
export type Shift = (int: (below: number) => number, dtype: DType, kind: 'weight' | 'activation') => number;

const BENCH_BYTES = 16 << 20;

/**
 * A fresh memory with helpers that make filled tensors.
 * @param shift absent: every tensor is aligned, with no gaps between rows
 */
export function workbench(seed: number, shift: Shift | undefined) {
  const random = randomFrom(seed);
  const memory = new TestMemory(BENCH_BYTES);
  const normal = () => random() * 2 + random() * 2 - 2;
  const int = (below: number) => randomInt(random, below);
  const padding = () => (shift ? int(4) : 0);
  const place = (dtype: DType, kind: 'weight' | 'activation') => shift?.(int, dtype, kind) ?? 0;
  return {
    memory,
    random,
    normal,
    int,
    /** At a multiple of its element's size, with gaps between rows. */
    activation: (shape: readonly number[], scale = 1, dtype: DType = 'f32') =>
      memory.fill(memory.tensor(dtype, shape, place(dtype, 'activation'), padding()), () => normal() * scale),
    /** f32 of values that bf16 holds exactly. */
    roundedActivation: (shape: readonly number[]) =>
      memory.fill(
        memory.tensor('f32', shape, place('f32', 'activation'), padding()),
        () => Math.round(normal() * 64) / 64,
      ),
    weight: (dtype: DType, shape: readonly number[], scale = 1) =>
      memory.fill(memory.tensor(dtype, shape, place(dtype, 'weight'), padding()), () => normal() * scale),
    /** Tensors of one layout, each at a place of its own. */
    weights: (dtype: DType, count: number, shape: readonly number[]) => {
      const gap = padding();
      return Array.from({ length: count }, () =>
        memory.fill(memory.tensor(dtype, shape, place(dtype, 'weight'), gap), normal),
      );
    },
    /** As a file has it, for a part of a stored weight: without gaps, and not filled. */
    stored: (dtype: DType, shape: readonly number[]) => memory.tensor(dtype, shape, place(dtype, 'weight')),
    vector: (dtype: DType, length: number) =>
      memory.fill(memory.tensor(dtype, [length], place(dtype, 'weight')), normal),
    index: (values: readonly number[]) =>
      memory.fill(memory.tensor('i32', [values.length]), (i) => values[i] ?? 0),
    table: (rows: readonly (readonly number[])[]) => {
      const values = rows.flat();
      return memory.fill(memory.tensor('i32', [rows.length, rows[0]?.length ?? 0]), (i) => values[i] ?? 0);
    },
  };
}
export type Workbench = ReturnType<typeof workbench>;

/** What storing a result costs, relative to it: half a unit in the last place; nothing for what is stored as codes. */
const ROUNDING: Readonly<Record<DType, number>> = {
  f32: 0,
  f16: 2 ** -11,
  bf16: 2 ** -8,
  i32: 0,
  u8: 0,
  i8: 0,
  e4m3: 0,
  e8m0: 0,
};

/** Largest difference allowed: `tolerance` and what its type rounds, of the largest magnitude, or of 1. */
export async function check(
  device: Pick<KernelDevice, 'run'>,
  bench: Workbench,
  op: Op,
  tolerance = 1e-5,
): Promise<void> {
  const expected = expectedOf(op, bench.memory);
  await device.run(op, bench);
  for (const { tensor, values } of expected) {
    const actual = bench.memory.read(tensor);
    const allowed = tolerance + ROUNDING[tensor.dtype];
    const scale = values.reduce((largest, v) => Math.max(largest, Number.isFinite(v) ? Math.abs(v) : 0), 1);
    for (let i = 0; i < values.length; i++) {
      const [got, want] = [actual[i] ?? 0, values[i] ?? 0];
      if (Object.is(got, want) || got === want || Math.abs(got - want) <= allowed * scale) continue;
      expect.fail(`${op.op}: element ${i} of [${tensor.shape}] is ${got}, not ${want} (scale ${scale})`);
    }
  }
}

export function rowsOf(tensor: Tensor, first: number, count: number): Tensor {
  const offsetBytes = tensor.offsetBytes + first * (tensor.strides[0] ?? 0) * DTYPE_BYTES[tensor.dtype];
  return { ...tensor, offsetBytes, shape: [count, ...tensor.shape.slice(1)] };
}
