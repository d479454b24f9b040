// Caches of every type on the GPU: the cases of every device, with k, v and queries of every type, and what kernels tell apart
// that other devices do not: sizes and places of heads, long contexts, tiles of many tokens.

import { describe, expect, it } from 'vitest';
import { scaleGroups } from '../../offload/model/kv-type.js';
import type { FloatType } from '../../offload/port/dtype.js';
import type { Tensor } from '../../offload/port/ops.js';
import { attentionOperands } from './attention-cases.js';
import { cacheCases, expectStored } from './cache-cases.js';
import { filledCache, KV_TYPES } from './cache-operands.js';
import { checkOnGpu, GPU_KERNELS, gpuBench, HAS_GPU, rowsOf, runOnGpu, SMALL } from './cuda-device.js';

const TYPES: readonly FloatType[] = ['f32', 'f16', 'bf16'];
const PAIRS = TYPES.flatMap((dtype) => KV_TYPES.map((kvType) => ({ dtype, kvType }))).filter(
  ({ dtype, kvType }) => dtype !== kvType,
);
const CODED = PAIRS.filter(({ kvType }) => scaleGroups(kvType, 64) > 0);
/** Queries and what is expanded are rounded to 11 bits, in bfloat16 to 8. */
const TILE_TOLERANCE = { f32: 2e-3, f16: 2e-3, bf16: 8e-3 } as const;

const SHAPES = [
  // Tiles and rows in one operation; whole groups of 16 bytes, and of 8 values.
  {
    lengths: [
      [40, 40],
      [2, 70],
      [17, 33],
    ],
    heads: 4,
    kvHeads: 2,
    depth: 128,
    page: 16,
  },
  {
    lengths: [
      [20, 50],
      [18, 18],
    ],
    heads: 2,
    kvHeads: 1,
    depth: 200,
    page: 16,
  },
  {
    lengths: [
      [33, 70],
      [1, 1],
    ],
    heads: 2,
    kvHeads: 2,
    depth: 256,
    page: 16,
  },
  {
    lengths: [
      [35, 90],
      [1, 45],
    ],
    heads: 2,
    kvHeads: 1,
    depth: 64,
    page: 7,
  },
  // Neither: value by value.
  { lengths: [[50, 50]], heads: 3, kvHeads: 3, depth: 36, page: 8 },
  { lengths: [[16, 40]], heads: 2, kvHeads: 1, depth: 18, page: 16 },
  // Contexts in several parts, and groups of 32 that are not a power of two.
  {
    lengths: [
      [1, 600],
      [3, 290],
      [1, 30],
    ],
    heads: 4,
    kvHeads: 4,
    depth: 64,
    page: 16,
  },
  {
    lengths: [
      [1, 300],
      [2, 31],
    ],
    heads: 4,
    kvHeads: 2,
    depth: 96,
    page: 16,
  },
  {
    lengths: [
      [1, 270],
      [2, 9],
    ],
    heads: 2,
    kvHeads: 2,
    depth: 256,
    page: 16,
  },
] as const;

describe.skipIf(!HAS_GPU)('CUDA caches', () => {
  cacheCases(GPU_KERNELS, { types: TYPES });

  it.each(PAIRS)(
    'attention of $dtype over $kvType, heads of any size in any place',
    async ({ dtype, kvType }) => {
      for (const [index, shape] of SHAPES.entries()) {
        for (const awkward of SMALL ? [index % 2 === 1] : [false, true]) {
          const bench = gpuBench(index, awkward);
          const score = { scale: shape.depth ** -0.5 };
          const op = { op: 'attention', ...attentionOperands(bench, shape, dtype, kvType), score } as const;
          const tolerance = shape.lengths.some(([count]) => count >= 16) ? TILE_TOLERANCE[dtype] : 1e-5;
          await checkOnGpu(bench, op, tolerance);
          await checkOnGpu(bench, { ...op, score: { ...score, windowTokens: 20, softCap: 3 } }, tolerance);
        }
      }
    },
  );

  it.each(PAIRS)(
    'a decoding $dtype token gets the same bits of $kvType alone, beside others, and split',
    async (pair) => {
      for (const depth of [32, 128]) {
        const bench = gpuBench(6, false);
        const lengths = Array.from({ length: 20 }, (_, s) => [1, 1 + ((s * 137) % 700)] as const);
        const shape = { lengths, heads: 32, kvHeads: 1, depth, page: 16 };
        const operands = attentionOperands(bench, shape, pair.dtype, pair.kvType);
        const all = { op: 'attention', ...operands, score: { scale: 0.2 } } as const;
        await runOnGpu(all, bench.memory);
        const together = bench.memory.read(all.out);
        const table = bench.memory.read(all.tables.sequences);
        for (const s of [0, 5, 10, 19]) {
          const one = (tensor: Tensor): Tensor => rowsOf(tensor, s, 1);
          const sequences = bench.table([[0, 1, table[s * 4 + 2] ?? 0, table[s * 4 + 3] ?? 0]]);
          const tables = { ...all.tables, sequences, positions: one(all.tables.positions) };
          await runOnGpu({ ...all, out: one(all.out), q: one(all.q), tables }, bench.memory);
        }
        expect(bench.memory.read(all.out)).toEqual(together);
      }
    },
  );

  it.each(PAIRS)('a prompt of $dtype finds what is not finite in $kvType', async ({ dtype, kvType }) => {
    const bench = gpuBench(3, false);
    const shape = {
      lengths: [
        [40, 40],
        [20, 20],
      ],
      heads: 4,
      kvHeads: 2,
      depth: 64,
      page: 16,
    } as const;
    const score = { scale: 0.1 };
    const operands = { op: 'attention', ...attentionOperands(bench, shape, dtype, kvType), score } as const;
    const [k, v] = [1, 2].map(() => bench.activation([60, 2, 64], 1, dtype)) as [Tensor, Tensor];
    const sound = bench.memory.read(k);
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      for (const from of [k, v]) {
        // The fourth token of the first sequence, in its second head, which two heads of queries read.
        bench.memory.fill(from, (i) => (i === (3 * 2 + 1) * 64 + 9 ? value : (sound[i] ?? 0)));
        const { out, tables } = operands;
        await runOnGpu({ ...operands, op: 'kv_store', k, v, slots: tables.slots }, bench.memory);
        await runOnGpu(operands, bench.memory);
        const rows = bench.memory.read(out);
        const isBad = (token: number, head: number) => !Number.isFinite(rows[(token * 4 + head) * 64 + 9]);
        for (let token = 0; token < 60; token++) {
          for (let head = 0; head < 4; head++) {
            // What the sequence's tokens before it get does not matter.
            if (token < 3 && head >= 2) continue;
            const what = `${value} of ${from === k ? 'k' : 'v'}: token ${token}, head ${head}`;
            expect(isBad(token, head), what).toBe(token < 40 && head >= 2);
          }
        }
        bench.memory.fill(from, (i) => sound[i] ?? 0);
      }
    }
  });

  it.each(CODED.filter(({ dtype }) => dtype === 'f16'))(
    'a prompt of $dtype reads the largest values as numbers from $kvType, whose scales were rounded up',
    async ({ dtype, kvType }) => {
      const bench = gpuBench(5, false);
      const shape = { lengths: [[48, 48]], heads: 2, kvHeads: 2, depth: 64, page: 16 } as const;
      const score = { scale: 0.1 };
      const operands = { op: 'attention', ...attentionOperands(bench, shape, dtype, kvType), score } as const;
      const [k, v] = [1, 2].map(() => bench.activation([48, 2, 64], 1, dtype)) as [Tensor, Tensor];
      // They have either sign, so that their mean is far from what f16 cannot hold.
      for (const magnitude of [65504, 65400, 65000]) {
        bench.memory.fill(v, (i) => (Math.floor(i / 128) % 2 === 0 ? magnitude : -magnitude));
        await runOnGpu({ ...operands, op: 'kv_store', k, v, slots: operands.tables.slots }, bench.memory);
        await runOnGpu(operands, bench.memory);
        const wrong = bench.memory.read(operands.out).filter((value) => !(Math.abs(value) <= 65504));
        expect([...wrong], `${magnitude}`).toEqual([]);
      }
    },
  );

  it.each(CODED)('many tokens of $dtype are stored as $kvType, to the bit', async ({ dtype, kvType }) => {
    // More tokens than blocks that are worth starting, with heads that fill no warp, one and more.
    for (const [tokens, depth] of [
      [4200, 8],
      [700, 64],
      [90, 288],
    ] as const) {
      const bench = gpuBench(tokens, false);
      const pages = Math.ceil(tokens / 16);
      const cache = filledCache(bench, kvType, { pages, kvHeads: 3, pageTokens: 16, depth });
      const [k, v] = [1, 2].map(() => bench.activation([tokens, 3, depth], 1, dtype)) as [Tensor, Tensor];
      const slots = bench.index(Array.from({ length: tokens }, (_, t) => pages * 16 - 1 - t));
      await expectStored(GPU_KERNELS, bench, { op: 'kv_store', k, v, ...cache, slots });
    }
  });
});
