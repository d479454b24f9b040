// What kernel tests share: tensors at awkward places, running an operation, comparing it with its reference.

import { afterAll, expect } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import type { DType } from '../../offload/dtype.js';
import { native } from '../../offload/native.js';
import type { Op, Tensor } from '../../offload/ops.js';
import { randomFrom, randomInt } from '../helpers/random.js';
import { referenceOp } from './reference-ops.js';
import { TestMemory } from './tensor-bytes.js';

export const WEIGHT_TYPES: readonly DType[] = ['f32', 'f16', 'bf16'];
export const ISAS = ['avx2', 'avx512', 'avx512bf16'];

/** Kernel sets whose products with bf16 weights round their inputs to bf16. */
export const ROUNDING_ISAS: readonly string[] = ['avx512bf16'];

const stream = native().createStream('kernels');
afterAll(() => {
  stream.close();
  native().configureCpu({ threads: 0 });
});

export async function run(op: Op): Promise<void> {
  stream.launch(encodeOp(op));
  await stream.record().promise();
}

/** A fresh memory with helpers that make filled tensors. */
export function workbench(seed: number) {
  const random = randomFrom(seed);
  const memory = new TestMemory(16 << 20);
  const normal = () => random() * 2 + random() * 2 - 2;
  return {
    memory,
    random,
    int: (below: number) => randomInt(random, below),
    /** f32 at a multiple of four bytes, with gaps between rows. */
    activation: (shape: readonly number[], scale = 1) =>
      memory.fill(
        memory.tensor('f32', shape, 4 * randomInt(random, 3), randomInt(random, 4)),
        () => normal() * scale,
      ),
    /** The same, of values that bf16 holds exactly: what kernels that round inputs to it must not change. */
    roundedActivation: (shape: readonly number[]) =>
      memory.fill(
        memory.tensor('f32', shape, 4 * randomInt(random, 3), randomInt(random, 4)),
        () => Math.round(normal() * 64) / 64,
      ),
    /** Any type at any byte. */
    weight: (dtype: DType, shape: readonly number[], scale = 1) =>
      memory.fill(
        memory.tensor(dtype, shape, randomInt(random, 7), randomInt(random, 4)),
        () => normal() * scale,
      ),
    vector: (dtype: DType, length: number) =>
      memory.fill(memory.tensor(dtype, [length], randomInt(random, 7)), normal),
    index: (values: readonly number[]) =>
      memory.fill(memory.tensor('i32', [values.length]), (i) => values[i] ?? 0),
    table: (rows: readonly (readonly number[])[]) => {
      const values = rows.flat();
      return memory.fill(memory.tensor('i32', [rows.length, rows[0]?.length ?? 0]), (i) => values[i] ?? 0);
    },
  };
}
export type Workbench = ReturnType<typeof workbench>;

export async function check(bench: Workbench, op: Op, tolerance = 1e-5): Promise<void> {
  const expected = referenceOp(op, bench.memory.bytes);
  await run(op);
  for (const { tensor, values } of expected) {
    const actual = bench.memory.read(tensor);
    const scale = values.reduce((largest, v) => Math.max(largest, Number.isFinite(v) ? Math.abs(v) : 0), 1);
    for (let i = 0; i < values.length; i++) {
      const [got, want] = [actual[i] ?? 0, values[i] ?? 0];
      if (Object.is(got, want) || got === want || Math.abs(got - want) <= tolerance * scale) continue;
      expect.fail(`${op.op}: element ${i} of [${tensor.shape}] is ${got}, not ${want} (scale ${scale})`);
    }
  }
}

export function rowsOf(tensor: Tensor, first: number, count: number): Tensor {
  const offsetBytes = tensor.offsetBytes + first * (tensor.strides[0] ?? 0) * 4;
  return { ...tensor, offsetBytes, shape: [count, ...tensor.shape.slice(1)] };
}
