// Attention on the GPU: the cases of every device in all types, with split contexts and tiles on tensor cores.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import type { DType, FloatType } from '../../offload/port/dtype.js';
import { native } from '../../offload/port/native.js';
import type { Tensor } from '../../offload/port/ops.js';
import { type AttentionShape, attentionCases, attentionOperands } from './attention-cases.js';
import {
  checkOnGpu,
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
const HALVES: ReadonlySet<DType> = new Set(['f16', 'bf16']);
/** Sequences with so many new tokens and more are multiplied with 11 bits of mantissa, in bfloat16 with 8. */
const TILE_TOKENS = 16;
const TILE_TOLERANCE: Readonly<Record<string, number>> = { f32: 2e-3, f16: 2e-3, bf16: 8e-3 };

/** Whether tensor cores take a few tokens too, where operands lie well. */
function isWide({ heads, kvHeads, depth, valueDepth = depth }: AttentionShape, dtype: DType, kvType: DType) {
  const fits = Math.max(depth, valueDepth) > 256 && depth % 8 === 0 && valueDepth % 8 === 0;
  return fits && heads / kvHeads >= 4 && (dtype === kvType || (dtype === 'f32' && HALVES.has(kvType)));
}

describe.skipIf(!HAS_GPU)('CUDA attention', () => {
  attentionCases(GPU_KERNELS, {
    types: TYPES,
    tolerance: (dtype, shape, kvType) => {
      const wide = isWide(shape, dtype, kvType);
      // Both halves of f32 are multiplied.
      if (wide && dtype === 'f32') return 3e-5;
      const tiles = shape.lengths.some(([count]) => count >= TILE_TOKENS);
      return tiles || wide ? (TILE_TOLERANCE[dtype] ?? 0) : 1e-5;
    },
    placings: (index) => (SMALL ? [index % 2 === 1] : [true, false]),
    // Calls with fewer tokens go to another kernel, which rounds differently.
    cuts: [{ tokens: 150, heads: 4, steps: [50, 30], windowTokens: 0 }],
  });

  const decoding = TYPES.flatMap(
    (dtype) =>
      [
        { dtype, kvType: dtype, sequences: 40, step: 137, heads: 64, kvHeads: 2, depth: 32 },
        // Wide heads, in one part and in several, a token to a tile and three.
        { dtype, kvType: dtype, sequences: 4, step: 900, heads: 80, kvHeads: 1, depth: 264 },
        { dtype, kvType: 'bf16', sequences: 4, step: 900, heads: 10, kvHeads: 1, depth: 576 },
      ] as const,
  );

  it.each(decoding)(
    'gives a decoding $dtype token the same bits of $kvType alone, beside others, and split: $heads heads of $depth',
    async ({ dtype, kvType, sequences: count, step, heads, kvHeads, depth }) => {
      const bench = gpuBench(6);
      const lengths = Array.from(
        { length: count },
        (_, s) => [1, 1 + ((s * step) % (5 * step + 17))] as const,
      );
      const all = attentionOperands(bench, { lengths, heads, kvHeads, depth, page: 16 }, dtype, kvType);
      const base = { op: 'attention', ...all, score: { scale: 0.2 } } as const;
      await runOnGpu({ ...base, out: all.out, q: all.q, tables: all.tables }, bench.memory);
      const together = bench.memory.read(all.out);
      const table = bench.memory.read(all.tables.sequences);
      for (const s of [0, 2, count - 1]) {
        const sequences = bench.table([[0, 1, table[s * 4 + 2] ?? 0, table[s * 4 + 3] ?? 0]]);
        const one = (tensor: Tensor): Tensor => rowsOf(tensor, s, 1);
        const tables = { ...all.tables, sequences, positions: one(all.tables.positions) };
        await runOnGpu({ ...base, out: one(all.out), q: one(all.q), tables }, bench.memory);
      }
      expect(bench.memory.read(all.out)).toEqual(together);
    },
  );

  it.each(TYPES)('puts parts of long contexts of wide heads of %s together', async (dtype) => {
    for (const [index, kvType] of (dtype === 'f32' ? (['f32', 'f16', 'bf16'] as const) : [dtype]).entries()) {
      const lengths = [
        [1, 2049],
        [3, 4098],
        [2, 30],
        [17, 2100],
      ] as const;
      const shape = { lengths, heads: 5, kvHeads: 1, depth: 264, valueDepth: 256, inKeys: true, page: 16 };
      const bench = gpuBench(index, false);
      const op = {
        op: 'attention',
        ...attentionOperands(bench, shape, dtype, kvType),
        score: { scale: 0.2 },
      } as const;
      const tolerance = dtype === 'f32' ? 3e-5 : (TILE_TOLERANCE[dtype] ?? 0);
      await checkOnGpu(bench, op, tolerance);
      const sinks = bench.vector('f32', shape.heads);
      await checkOnGpu(bench, { ...op, score: { scale: 0.2, sinks, windowTokens: 2060 } }, tolerance);
    }
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
