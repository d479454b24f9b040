// Attention on the GPU: the cases of every device in all types, with split contexts and tiles on tensor cores.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import type { DType, FloatType } from '../../offload/port/dtype.js';
import { native } from '../../offload/port/native.js';
import type { Tensor } from '../../offload/port/ops.js';
import { type AttentionShape, attentionCases, attentionOperands, seenPlaces } from './attention-cases.js';
import { KV_TYPES, spoil } from './cache-operands.js';
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
  const expands = dtype === 'f32' ? HALVES.has(kvType) : kvType !== 'f32';
  return fits && heads / kvHeads >= 4 && (dtype === kvType || expands);
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
        { dtype, kvType: 'i8', sequences: 4, step: 900, heads: 70, kvHeads: 1, depth: 576 },
        // So many that a block does all parts of a context, where it does one of a sequence that is alone.
        { dtype, kvType: dtype, sequences: 7, step: 900, heads: 1100, kvHeads: 1, depth: 264 },
        { dtype, kvType: 'e4m3', sequences: 7, step: 900, heads: 1100, kvHeads: 1, depth: 264 },
      ] as const,
    // That many of four bytes are more than the test's memory holds.
  ).filter(({ dtype, heads }) => dtype !== 'f32' || heads < 1000);

  it.each(decoding)(
    'gives a decoding $dtype token the same bits of $kvType alone, beside others, and split: $heads heads of $depth',
    async ({ dtype, kvType, sequences: count, step, heads, kvHeads, depth }) => {
      const bench = gpuBench(6);
      const lengths = Array.from(
        { length: count },
        (_, s) => [1, 1 + ((s * step) % (5 * step + 17))] as const,
      );
      const shape = { lengths, heads, kvHeads, depth, page: 16, inKeys: depth > 256 };
      const all = attentionOperands(bench, shape, dtype, kvType);
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
    for (const [index, kvType] of (['f32', 'f16', 'bf16', 'e4m3', 'u8'] as const).entries()) {
      if (!isWide({ lengths: [], heads: 5, kvHeads: 1, depth: 264, page: 16 }, dtype, kvType)) continue;
      const lengths = [
        [1, 2049],
        [3, 4098],
        [2, 30],
        [17, 2100],
      ] as const;
      const depth = kvType === 'u8' ? 320 : 264;
      const shape = { lengths, heads: 5, kvHeads: 1, depth, valueDepth: 256, inKeys: true, page: 16 };
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

describe.skipIf(!HAS_GPU)('CUDA attention of wide heads', () => {
  it.each(TYPES)('never reads what %s does not see', async (dtype) => {
    for (const kvType of KV_TYPES) {
      const [lengths, page, windowTokens] = [
        [
          [3, 21],
          [1, 100],
          [2, 70],
        ] as const,
        16,
        40,
      ];
      const bench = gpuBench(3, false);
      const shape = { lengths, heads: 128, kvHeads: 1, depth: 576, valueDepth: 512, inKeys: true, page };
      const operands = attentionOperands(bench, shape, dtype, kvType);
      const op = { op: 'attention', ...operands, score: { scale: 0.05, windowTokens } } as const;
      await checkOnGpu(bench, op, dtype === 'f32' ? 1e-4 : (TILE_TOLERANCE[dtype] ?? 0));
      const clean = bench.memory.read(op.out);
      const seen = seenPlaces(bench.memory.read(op.tables.pages), { lengths, page, windowTokens });
      spoil(bench, op, (from, offset) => !seen.has(`${from},${offset}`));
      await runOnGpu(op, bench.memory);
      expect(bench.memory.read(op.out), kvType).toEqual(clean);
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
