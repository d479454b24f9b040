// Attention on the GPU: the cases of every device in all types, with split contexts and tiles on tensor cores.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import type { FloatType } from '../../offload/port/dtype.js';
import { native } from '../../offload/port/native.js';
import type { Tensor } from '../../offload/port/ops.js';
import { attentionCases, attentionOperands } from './attention-cases.js';
import {
  GPU_KERNELS,
  gpuBench,
  gpuStream,
  HAS_GPU,
  relocated,
  rowsOf,
  runOnGpu,
  SMALL,
} from './cuda-device.js';

const TYPES: readonly FloatType[] = ['f32', 'f16', 'bf16'];
/** Sequences with so many new tokens and more are multiplied with 11 bits of mantissa, in bfloat16 with 8. */
const TILE_TOKENS = 16;
const TILE_TOLERANCE: Readonly<Record<string, number>> = { f32: 2e-3, f16: 2e-3, bf16: 8e-3 };

describe.skipIf(!HAS_GPU)('CUDA attention', () => {
  attentionCases(GPU_KERNELS, {
    types: TYPES,
    tolerance: (dtype, lengths) =>
      lengths.some(([count]) => count >= TILE_TOKENS) ? (TILE_TOLERANCE[dtype] ?? 0) : 1e-5,
    placings: (index) => (SMALL ? [index % 2 === 1] : [true, false]),
    // Calls with fewer tokens go to another kernel, which rounds differently.
    cuts: [{ tokens: 150, heads: 4, steps: [50, 30], windowTokens: 0 }],
  });

  it.each(TYPES)('gives a decoding %s token the same bits alone, beside others, and split', async (dtype) => {
    const bench = gpuBench(6);
    const lengths = Array.from({ length: 40 }, (_, s) => [1, 1 + ((s * 137) % 700)] as const);
    const shape = { lengths, heads: 64, kvHeads: 2, depth: 32, page: 16 };
    const all = attentionOperands(bench, shape, dtype);
    const base = { op: 'attention', ...all, score: { scale: 0.2 } } as const;
    await runOnGpu({ ...base, out: all.out, q: all.q, tables: all.tables }, bench.memory);
    const together = bench.memory.read(all.out);
    const table = bench.memory.read(all.tables.sequences);
    for (const s of [0, 5, 17, 39]) {
      const sequences = bench.table([[0, 1, table[s * 4 + 2] ?? 0, table[s * 4 + 3] ?? 0]]);
      const one = (tensor: Tensor): Tensor => rowsOf(tensor, s, 1);
      const tables = { ...all.tables, sequences, positions: one(all.tables.positions) };
      await runOnGpu({ ...base, out: one(all.out), q: one(all.q), tables }, bench.memory);
    }
    expect(bench.memory.read(all.out)).toEqual(together);
  });
});

describe.skipIf(!HAS_GPU)('CUDA operands', () => {
  it('must lie on the device or in page-locked host memory', () => {
    const pageable = new (native().NativeMemory)(4096, false);
    const tensor = { memory: pageable, offsetBytes: 0, dtype: 'f32', shape: [4], strides: [1] } as const;
    const op = { op: 'add', out: tensor, a: tensor, b: tensor } as const;
    expect(() => gpuStream().launch(encodeOp(op))).toThrow(/not pinned/);
    const device = new (native().NativeDeviceMemory)(0, 4096);
    const cpu = native().createStream('cpu');
    expect(() => cpu.launch(encodeOp(relocated(op, device)))).toThrow(/memory of a device/);
    cpu.close();
    device.free();
    pageable.free();
  });
});
