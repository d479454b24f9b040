// What GPU tests share: whether there is a GPU, and running operations of a test's memory on it.

import { afterAll, expect } from 'vitest';
import { encodeCopy, encodeOp } from '../../offload/backends/op-encoding.js';
import { DTYPE_BYTES, type DType } from '../../offload/dtype.js';
import { type NativeCudaStream, native } from '../../offload/native.js';
import type { Memory, Op, Tensor } from '../../offload/ops.js';
import { randomFrom, randomInt } from '../helpers/random.js';
import { referenceOp } from './reference-ops.js';
import { TestMemory } from './tensor-bytes.js';

/** Tests that need a GPU are skipped without one, and counted as skipped. */
export const HAS_GPU = native().cudaStatus().problem === '';

/** As above, of two. */
export const HAS_TWO_GPUS = HAS_GPU && native().cudaStatus().devices.length >= 2;
/** Whether shards can be gathered by NCCL. */
export const HAS_NCCL = HAS_TWO_GPUS && native().ncclProblem() === '';

const BENCH_BYTES = 16 << 20;

let stream: NativeCudaStream | undefined;
export function gpuStream(): NativeCudaStream {
  stream ??= new (native().NativeCudaStream)(0, 'kernels');
  return stream;
}
afterAll(async () => {
  await stream?.close();
});

/** The operation with every tensor at the same place of another memory. */
export function relocated<T>(value: T, memory: Memory): T {
  if (Array.isArray(value)) return value.map((item: unknown) => relocated(item, memory)) as T;
  if (typeof value !== 'object' || value === null) return value;
  const moved = Object.entries(value).map(([key, item]: [string, unknown]) => [
    key,
    key === 'memory' ? memory : relocated(item, memory),
  ]);
  return Object.fromEntries(moved) as T;
}

/** Copies the whole test memory to the GPU, runs the operation there, and copies everything back. */
export async function runOnGpu(op: Op, memory: TestMemory): Promise<void> {
  const queue = gpuStream();
  const there = new (native().NativeDeviceMemory)(0, memory.memory.sizeBytes);
  queue.launch(encodeCopy(there, 0, memory.memory, 0, there.sizeBytes));
  queue.launch(encodeOp(relocated(op, there)));
  queue.launch(encodeCopy(memory.memory, 0, there, 0, there.sizeBytes));
  await queue.record().promise();
  there.free();
}

/** A fresh memory with helpers that make filled tensors, aligned as device layouts are or as awkward as they may be. */
export function gpuBench(seed: number, awkward = true) {
  const random = randomFrom(seed);
  const memory = new TestMemory(BENCH_BYTES);
  native().pinMemory(memory.memory.id);
  const normal = () => random() * 2 + random() * 2 - 2;
  const shift = (bytes: number) => (awkward ? bytes * randomInt(random, 4) : 0);
  const padding = () => (awkward ? randomInt(random, 4) : 0);
  return {
    memory,
    random,
    normal,
    int: (below: number) => randomInt(random, below),
    activation: (shape: readonly number[], scale = 1, dtype: DType = 'f32') =>
      memory.fill(memory.tensor(dtype, shape, shift(DTYPE_BYTES[dtype]), padding()), () => normal() * scale),
    weight: (dtype: DType, shape: readonly number[], scale = 1) =>
      memory.fill(
        memory.tensor(dtype, shape, shift(dtype === 'f32' ? 4 : 2), padding()),
        () => normal() * scale,
      ),
    index: (values: readonly number[]) =>
      memory.fill(memory.tensor('i32', [values.length]), (i) => values[i] ?? 0),
    table: (rows: readonly (readonly number[])[]) =>
      memory.fill(memory.tensor('i32', [rows.length, rows[0]?.length ?? 0]), (i) => rows.flat()[i] ?? 0),
  };
}
export type GpuBench = ReturnType<typeof gpuBench>;

/** What storing a result costs, relative to it: half a unit in the last place. */
const ROUNDING: Readonly<Record<DType, number>> = { f32: 0, f16: 2 ** -11, bf16: 2 ** -8, i32: 0 };

/** Largest difference allowed: `tolerance` and what its type rounds, of the largest magnitude. */
export async function checkOnGpu(bench: GpuBench, op: Op, tolerance = 1e-5): Promise<void> {
  const expected = referenceOp(op, bench.memory.bytes);
  await runOnGpu(op, bench.memory);
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
