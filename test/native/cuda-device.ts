// What GPU tests share: whether there is a GPU, and running operations of a test's memory on it.

import { afterAll, expect } from 'vitest';
import { encodeCopy, encodeOp, joinEncoded } from '../../offload/backends/op-encoding.js';
import { DTYPE_BYTES } from '../../offload/port/dtype.js';
import { native } from '../../offload/port/native.js';
import type { NativeCudaStream } from '../../offload/port/native-devices.js';
import type { Memory, Op } from '../../offload/port/ops.js';
import type { TestMemory } from './tensor-bytes.js';
import { check, type KernelDevice, type Workbench, workbench } from './workbench.js';

export { rowsOf } from './workbench.js';

/** Tests that need a GPU are skipped without one, and counted as skipped. */
export const HAS_GPU = native().cudaStatus().problem === '';

/** As above, of two. */
export const HAS_TWO_GPUS = HAS_GPU && native().cudaStatus().devices.length >= 2;
/** Whether shards can be gathered by NCCL. */
export const HAS_NCCL = HAS_TWO_GPUS && native().ncclProblem() === '';

/**
 * `ZI_TEST_SCALE=small`, for runs under a sanitizer: attention with one placing of a case's operands instead of two. With
 * them alternating, tiles of every size still meet aligned and awkward ones.
 */
export const SMALL = process.env.ZI_TEST_SCALE === 'small';

/**
 * `ZI_TEST_KERNELS=own`, for racecheck, which the 16-bit kernels of cuBLASLt crash ("failed to handle a hardware
 * exception"): what the library would compute from 16-bit inputs is left out.
 */
export const OWN_KERNELS_ONLY = process.env.ZI_TEST_KERNELS === 'own';

let stream: NativeCudaStream | undefined;
export function gpuStream(): NativeCudaStream {
  stream ??= new (native().NativeCudaStream)(0, 'kernels', true);
  return stream;
}
afterAll(async () => {
  await stream?.close();
});

/** The operation with every tensor at the same place of another memory; equal formats stay one object. */
export function relocated<T>(value: T, memory: Memory): T {
  if (Array.isArray(value)) return value.map((item: unknown) => relocated(item, memory)) as T;
  if (typeof value !== 'object' || value === null) return value;
  const moved = Object.entries(value).map(([key, item]: [string, unknown]) => [
    key,
    key === 'memory' ? memory : key === 'format' ? item : relocated(item, memory),
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

/** Handed over together, operations leave the same bytes as one after the other, whichever of them share a kernel. */
export async function expectSameTogether(bench: GpuBench, ops: readonly Op[], what: string): Promise<void> {
  const { memory } = bench;
  const { buffer, byteOffset, byteLength } = memory.view;
  const bytes = new Uint8Array(buffer, byteOffset, byteLength);
  const before = bytes.slice();
  const there = new (native().NativeDeviceMemory)(0, memory.memory.sizeBytes);
  const run = async (launch: () => void) => {
    bytes.set(before);
    gpuStream().launch(encodeCopy(there, 0, memory.memory, 0, there.sizeBytes));
    launch();
    gpuStream().launch(encodeCopy(memory.memory, 0, there, 0, there.sizeBytes));
    await gpuStream().record().promise();
    return bytes.slice();
  };
  const encoded = ops.map((op) => encodeOp(relocated(op, there)).slice());
  const alone = await run(() => {
    for (const op of encoded) gpuStream().launch(op);
  });
  expect(Buffer.compare(alone, before)).not.toBe(0);
  // At first as they are, then as a graph that is made, then as one that is there.
  for (const time of ['first', 'second', 'third']) {
    const together = await run(() => gpuStream().launchAll(joinEncoded(encoded)));
    const at =
      Buffer.compare(together, alone) === 0 ? -1 : together.findIndex((byte, i) => byte !== alone[i]);
    expect(at, `${time} time, ${what}: byte ${at}`).toBe(-1);
  }
  there.free();
}

/**
 * A fresh memory, reached by the GPU. Awkward places are multiples of the elements' size; aligned ones are as device
 * layouts have them.
 */
export function gpuBench(seed: number, awkward = true): GpuBench {
  const bench = workbench(seed, awkward ? (int, dtype) => DTYPE_BYTES[dtype] * int(4) : undefined);
  native().pinMemory(bench.memory.memory.id);
  return bench;
}
export type GpuBench = Workbench;

/** Inputs of products are rounded to the weight's type: 11 and 8 bits of mantissa. */
const PRODUCT_TOLERANCE: Readonly<Record<string, number>> = { f32: 2e-5, f16: 1e-3, bf16: 6e-3 };

export const GPU_KERNELS: KernelDevice = {
  kind: 'cuda',
  placings: [false, true],
  workbench: gpuBench,
  run: (op, bench) => runOnGpu(op, bench.memory),
  use: () => undefined,
  productTolerance: (dtype) => PRODUCT_TOLERANCE[dtype] ?? 0,
  productInput: (bench, _dtype, shape) => bench.activation(shape),
};

export function checkOnGpu(bench: GpuBench, op: Op, tolerance?: number): Promise<void> {
  return check(GPU_KERNELS, bench, op, tolerance);
}
