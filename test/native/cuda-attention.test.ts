// Attention on the GPU: ragged sequences over shuffled pages, split contexts, tiles on tensor cores, faults in tables.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import type { DType } from '../../offload/dtype.js';
import { native } from '../../offload/native.js';
import type { AttentionTables, Tensor } from '../../offload/ops.js';
import {
  checkOnGpu as check,
  type GpuBench,
  gpuBench,
  gpuStream,
  HAS_GPU,
  relocated,
  rowsOf,
  runOnGpu,
} from './cuda-device.js';

type Lengths = readonly (readonly [newTokens: number, context: number])[];

function attentionCase(
  bench: GpuBench,
  lengths: Lengths,
  heads: number,
  kvHeads: number,
  depth: number,
  pageTokens: number,
  dtype: DType = 'f32',
) {
  const pageCounts = lengths.map(([, context]) => Math.ceil(context / pageTokens));
  const total = pageCounts.reduce((a, b) => a + b, 0) + 2;
  const order = Array.from({ length: total }, (_, i) => i).sort(() => bench.random() - 0.5);
  const rows: number[][] = [];
  const positions: number[] = [];
  let [token, page] = [0, 0];
  lengths.forEach(([count, context], s) => {
    rows.push([token, count, context, page]);
    for (let i = 0; i < count; i++) positions.push(context - count + i);
    token += count;
    page += pageCounts[s] ?? 0;
  });
  const tables: AttentionTables = {
    sequences: bench.table(rows),
    pages: bench.index(order.slice(0, page)),
    slots: bench.index(positions),
    positions: bench.index(positions),
    maxContextTokens: Math.max(...lengths.map(([, context]) => context)),
  };
  return {
    tables,
    q: bench.activation([token, heads, depth], 1, dtype),
    out: bench.activation([token, heads, depth], 1, dtype),
    keys: bench.activation([total, kvHeads, pageTokens, depth], 1, dtype),
    values: bench.activation([total, kvHeads, pageTokens, depth], 1, dtype),
  };
}

const TYPES: readonly DType[] = ['f32', 'f16', 'bf16'];
/** Sequences with 16 new tokens and more are multiplied with 11 bits of mantissa, in bfloat16 with 8. */
const TILE_TOLERANCE: Readonly<Record<string, number>> = { f32: 2e-3, f16: 2e-3, bf16: 8e-3 };

describe.skipIf(!HAS_GPU)('CUDA attention', () => {
  const cases: readonly {
    lengths: Lengths;
    heads: number;
    kvHeads: number;
    depth: number;
    page: number;
  }[] = [
    { lengths: [[1, 1]], heads: 1, kvHeads: 1, depth: 8, page: 16 },
    {
      lengths: [
        [5, 5],
        [1, 70],
        [0, 9],
        [3, 40],
      ],
      heads: 4,
      kvHeads: 2,
      depth: 16,
      page: 16,
    },
    {
      lengths: [
        [37, 37],
        [30, 100],
        [1, 33],
      ],
      heads: 3,
      kvHeads: 3,
      depth: 37,
      page: 8,
    },
    {
      lengths: [
        [2, 3],
        [1, 600],
      ],
      heads: 8,
      kvHeads: 1,
      depth: 64,
      page: 32,
    },
    { lengths: [[2, 66]], heads: 71, kvHeads: 1, depth: 20, page: 7 },
    { lengths: [[4, 20]], heads: 5, kvHeads: 2, depth: 128, page: 64 },
    {
      lengths: [
        [130, 130],
        [0, 4],
        [16, 90],
        [15, 15],
        [64, 64],
      ],
      heads: 4,
      kvHeads: 2,
      depth: 128,
      page: 16,
    },
    { lengths: [[20, 50]], heads: 2, kvHeads: 1, depth: 200, page: 16 },
    {
      lengths: [
        [100, 230],
        [70, 70],
        [3, 3],
      ],
      heads: 2,
      kvHeads: 2,
      depth: 256,
      page: 16,
    },
    { lengths: [[90, 300]], heads: 2, kvHeads: 1, depth: 80, page: 16 },
    { lengths: [[0, 12]], heads: 2, kvHeads: 1, depth: 64, page: 16 },
  ];

  const variants = TYPES.flatMap((dtype) =>
    [true, false].flatMap((awkward) => cases.map((one, index) => ({ dtype, awkward, index, ...one }))),
  );
  it.each(variants)(
    '$dtype, awkward $awkward, case $index: head size $depth',
    async ({ dtype, awkward, index, lengths, heads, kvHeads, depth, page }) => {
      const bench = gpuBench(index, awkward);
      const operands = attentionCase(bench, lengths, heads, kvHeads, depth, page, dtype);
      const scale = 1 / Math.sqrt(depth);
      const op = { op: 'attention', ...operands, scale, alibiSlopes: null } as const;
      const tolerance = lengths.some(([count]) => count >= 16) ? (TILE_TOLERANCE[dtype] ?? 0) : 1e-5;
      await check(bench, { ...op, windowTokens: 0, softCap: 0 }, tolerance);
      await check(bench, { ...op, windowTokens: 10, softCap: 0 }, tolerance);
      await check(bench, { ...op, windowTokens: 33, softCap: 2 }, tolerance);
      const alibiSlopes = bench.memory.fill(bench.memory.tensor('f32', [heads]), (i) => 0.5 ** (i + 1));
      await check(bench, { ...op, alibiSlopes, windowTokens: 0, softCap: 0 }, tolerance);
    },
  );

  it.each(TYPES)('never reads what no token sees: %s', async (dtype) => {
    const bench = gpuBench(3, dtype === 'f32');
    const lengths = [
      [3, 21],
      [20, 60],
    ] as const;
    const { tables, q, out, keys, values } = attentionCase(bench, lengths, 2, 2, 24, 16, dtype);
    const op = {
      op: 'attention',
      ...{ tables, q, out, keys, values, scale: 0.2, alibiSlopes: null, windowTokens: 6, softCap: 0 },
    } as const;
    await runOnGpu(op, bench.memory);
    const clean = bench.memory.read(out);
    const pages = bench.memory.read(tables.pages);
    const seen = new Set<string>();
    for (const [firstPage, from, to] of [
      [0, 13, 21],
      [2, 35, 60],
    ] as const) {
      for (let j = from; j < to; j++) seen.add(`${pages[firstPage + Math.floor(j / 16)]},${j % 16}`);
    }
    for (const tensor of [keys, values]) {
      const before = bench.memory.read(tensor);
      bench.memory.fill(tensor, (i) => {
        const [offset, page] = [Math.floor(i / 24) % 16, Math.floor(i / 24 / 16 / 2)];
        return seen.has(`${page},${offset}`) ? (before[i] ?? 0) : Number.NaN;
      });
    }
    await runOnGpu(op, bench.memory);
    expect(bench.memory.read(out)).toEqual(clean);
  });

  it.each(TYPES)('gives a decoding %s token the same bits alone, beside others, and split', async (dtype) => {
    const bench = gpuBench(6);
    const lengths = Array.from({ length: 40 }, (_, s) => [1, 1 + ((s * 137) % 700)] as const);
    const all = attentionCase(bench, lengths, 64, 2, 32, 16, dtype);
    const base = {
      op: 'attention',
      ...{ keys: all.keys, values: all.values, scale: 0.2, alibiSlopes: null, windowTokens: 0, softCap: 0 },
    } as const;
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

  it.each(TYPES)(
    'gives the same bits however a %s prompt is cut into calls of many tokens',
    async (dtype) => {
      const bench = gpuBench(4, dtype === 'f32');
      const total = 150;
      const whole = attentionCase(bench, [[total, total]], 4, 2, 40, 16, dtype);
      const base = {
        op: 'attention',
        ...{
          keys: whole.keys,
          values: whole.values,
          scale: 0.15,
          alibiSlopes: null,
          windowTokens: 0,
          softCap: 0,
        },
      } as const;
      await runOnGpu({ ...base, out: whole.out, q: whole.q, tables: whole.tables }, bench.memory);
      const together = bench.memory.read(whole.out);
      for (const step of [50, 30]) {
        for (let first = 0; first < total; first += step) {
          const tables = {
            ...whole.tables,
            sequences: bench.table([[0, step, first + step, 0]]),
            positions: bench.index(Array.from({ length: step }, (_, i) => first + i)),
          };
          const part = (tensor: Tensor): Tensor => rowsOf(tensor, first, step);
          await runOnGpu({ ...base, out: part(whole.out), q: part(whole.q), tables }, bench.memory);
        }
        expect(bench.memory.read(whole.out), `in steps of ${step}`).toEqual(together);
      }
    },
  );
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
