// Cases of attention for any device: ragged sequences over shuffled pages, grouped heads, any head size.

import { expect, it } from 'vitest';
import type { KvDType } from '../../offload/model/kv-type.js';
import { type DType, type FloatType, isFloat } from '../../offload/port/dtype.js';
import type { AttentionTables, ScoreRule, Tensor } from '../../offload/port/ops.js';
import { filledCache, KV_TYPES, spoil } from './cache-operands.js';
import { check, type KernelDevice, rowsOf, type Workbench } from './workbench.js';

/** New tokens and context of each sequence. */
export type Lengths = readonly (readonly [newTokens: number, context: number])[];

export interface AttentionShape {
  readonly lengths: Lengths;
  readonly heads: number;
  readonly kvHeads: number;
  readonly depth: number;
  readonly page: number;
  /** Size of values; default `depth`. */
  readonly valueDepth?: number;
  /** Values are the first ones of their keys. */
  readonly inKeys?: boolean;
}

/**
 * `new tokens/context` of each sequence; heads, heads of keys and values, their size, tokens of a page; the size of values
 * where it is another, which lie in their keys where that is 'within'.
 */
const SHAPES: readonly AttentionShape[] = (
  [
    ['1/1', 1, 1, 8, 16],
    ['5/5 1/70 0/9 3/40', 4, 2, 16, 16],
    ['37/37 30/100 1/33', 3, 3, 37, 8],
    ['2/3 1/130', 8, 1, 64, 32],
    ['2/3 1/600', 8, 1, 64, 32],
    ['2/66', 71, 1, 20, 7],
    ['4/20', 5, 2, 128, 64],
    ['130/130 0/4 16/90 15/15 64/64', 4, 2, 128, 16],
    ['20/50', 2, 1, 200, 16],
    ['100/230 70/70 3/3', 2, 2, 256, 16],
    ['90/300', 2, 1, 80, 16],
    ['0/12', 2, 1, 64, 16],
    ['3/19', 2, 1, 37, 4],
    ['3/40 1/70 20/33', 4, 2, 24, 16, '16'],
    ['2/3 1/130 17/17', 8, 1, 96, 16, '64 within'],
    ['5/5 20/40 1/9', 4, 2, 192, 16, '128'],
    ['1/70 2/12', 20, 1, 576, 16, '512 within'],
    ['18/40 1/3', 3, 1, 512, 16, '512'],
    ['2/50 19/19', 5, 1, 14, 4, '22'],
    // Wide, whose keys several heads read: several tokens to a tile, and heads of several tiles.
    ['17/40 3/5 0/2', 10, 2, 264, 16, '272'],
    ['2/40', 100, 1, 320, 7, '256 within'],
    ['1/150 2/40 1/1', 70, 1, 320, 16, '256 within'],
  ] as readonly (readonly [string, number, number, number, number, string?])[]
).map(([lengths, heads, kvHeads, depth, page, values = `${depth}`]) => ({
  lengths: lengths.split(' ').map((pair) => pair.split('/').map(Number) as [number, number]),
  ...{
    heads,
    kvHeads,
    depth,
    page,
    valueDepth: Number.parseInt(values, 10),
    inKeys: values.endsWith('within'),
  },
}));

/** Those that caches of other types than the queries' are read in: ragged, grouped, with tiles, and of odd sizes. */
const CACHED_SHAPES = [1, 3, 5, 6, 10, 12, 13, 14, 15, 16, 18, 19, 20];

/** Operands of those sequences: their pages shuffled, two pages of the cache nobody's. */
export function attentionOperands(
  bench: Workbench,
  shape: AttentionShape,
  dtype: FloatType = 'f32',
  kvType: KvDType = dtype,
) {
  const { lengths, heads, kvHeads, depth, page: pageTokens, valueDepth = depth, inKeys = false } = shape;
  const pageCounts = lengths.map(([, context]) => Math.ceil(context / pageTokens));
  const total = pageCounts.reduce((a, b) => a + b, 0) + 2;
  const order = Array.from({ length: total }, (_, i) => i).sort(() => bench.random() - 0.5);
  const rows: number[][] = [];
  const positions: number[] = [];
  const slots: number[] = [];
  let [token, page] = [0, 0];
  lengths.forEach(([count, context], s) => {
    rows.push([token, count, context, page]);
    for (let i = 0; i < count; i++) {
      const position = context - count + i;
      positions.push(position);
      slots.push(
        (order[page + Math.floor(position / pageTokens)] ?? 0) * pageTokens + (position % pageTokens),
      );
    }
    token += count;
    page += pageCounts[s] ?? 0;
  });
  const tables: AttentionTables = {
    sequences: bench.table(rows),
    pages: bench.index(order.slice(0, page)),
    slots: bench.index(slots),
    positions: bench.index(positions),
    maxContextTokens: Math.max(...lengths.map(([, context]) => context)),
  };
  return {
    tables,
    q: bench.activation([token, heads, depth], 1, dtype),
    out: bench.activation([token, heads, valueDepth], 1, dtype),
    ...filledCache(bench, kvType, { pages: total, kvHeads, pageTokens, depth, valueDepth, inKeys }),
  };
}

/** `page,offset` of every key that a new token sees in a window. */
export function seenPlaces(
  pages: ArrayLike<number>,
  { lengths, page, windowTokens }: { lengths: Lengths; page: number; windowTokens: number },
): ReadonlySet<string> {
  const seen = new Set<string>();
  let firstPage = 0;
  for (const [count, context] of lengths) {
    for (let j = Math.max(context - count - windowTokens + 1, 0); j < context; j++) {
      seen.add(`${pages[firstPage + Math.floor(j / page)]},${j % page}`);
    }
    firstPage += Math.ceil(context / page);
  }
  return seen;
}

/** What a device is asked beside the shapes, which are the same for all. */
export interface AttentionCases {
  readonly types: readonly FloatType[];
  /** How near a result must be to float64's. */
  readonly tolerance: (dtype: DType, shape: AttentionShape, kvType: KvDType) => number;
  /** Which placings of operands a case is run with. */
  readonly placings: (caseIndex: number) => readonly boolean[];
  /** Cuts of a prompt that must not change a bit. */
  readonly cuts: readonly {
    readonly tokens: number;
    readonly heads: number;
    readonly steps: readonly number[];
    readonly windowTokens: number;
  }[];
}

export function attentionCases(device: KernelDevice, asked: AttentionCases): void {
  const variants = asked.types.flatMap((dtype) =>
    SHAPES.flatMap((shape, index) =>
      asked.placings(index).map((awkward) => ({ dtype, awkward, index, shape, depth: shape.depth })),
    ),
  );

  it.each(variants)(
    'attention of $dtype, awkward $awkward, case $index: head size $depth',
    async ({ dtype, awkward, index, shape }) => {
      device.use();
      const bench = device.workbench(index, awkward);
      const scale = 1 / Math.sqrt(shape.depth);
      const op = { op: 'attention', ...attentionOperands(bench, shape, dtype), score: { scale } } as const;
      const tolerance = asked.tolerance(dtype, shape, dtype);
      await check(device, bench, op, tolerance);
      const ruled = (rule: Partial<ScoreRule>) =>
        check(device, bench, { ...op, score: { scale, ...rule } }, tolerance);
      await ruled({ windowTokens: 10 });
      await ruled({ windowTokens: 33, softCap: 2 });
      const slopes = bench.memory.fill(bench.memory.tensor('f32', [shape.heads]), (i) => 0.5 ** (i + 1));
      await ruled({ alibi: { slopes } });
      const sinks = bench.vector(index % 2 === 0 ? 'f32' : 'bf16', shape.heads);
      await ruled({ sinks, windowTokens: 33 });
      await ruled({ sinks, chunkTokens: 24 });
      await ruled({ chunkTokens: 7, windowTokens: 5 });
      // Up to 256 positions have eight bits or fewer.
      if (shape.lengths.every(([, context]) => context <= 128)) return;
      await ruled({ alibi: { slopes, rounded: true } });
    },
  );

  const kinds = asked.types.flatMap((dtype) => KV_TYPES.map((kvType) => ({ dtype, kvType })));
  const cached = kinds.flatMap(({ dtype, kvType }) =>
    CACHED_SHAPES.flatMap((index) => {
      const shape = SHAPES[index];
      if (!shape || dtype === kvType || (kvType === 'u8' && shape.depth % 2 !== 0)) return [];
      return asked.placings(index).map((awkward) => ({ dtype, kvType, awkward, index, shape }));
    }),
  );

  it.each(cached)(
    'attention of $dtype over $kvType, awkward $awkward, case $index',
    async ({ dtype, kvType, awkward, index, shape }) => {
      device.use();
      const bench = device.workbench(index, awkward);
      const operands = attentionOperands(bench, shape, dtype, kvType);
      const scale = 1 / Math.sqrt(shape.depth);
      const ruled = (rule: Partial<ScoreRule>) =>
        check(
          device,
          bench,
          { op: 'attention', ...operands, score: { scale, ...rule } },
          asked.tolerance(dtype, shape, kvType),
        );
      await ruled({});
      const slopes = bench.memory.fill(bench.memory.tensor('f32', [shape.heads]), (i) => 0.5 ** (i + 1));
      await ruled({ alibi: { slopes }, windowTokens: 33, softCap: 2 });
      await ruled({ sinks: bench.vector('bf16', shape.heads) });
    },
  );

  it.each(kinds)(
    'attention of $dtype never reads what it does not see of $kvType',
    async ({ dtype, kvType }) => {
      device.use();
      for (const second of [
        [1, 40],
        [20, 60],
      ] as const) {
        const [lengths, page, depth, windowTokens] = [[[3, 21], second] as const, 16, 24, 6];
        const bench = device.workbench(3, dtype === 'f32');
        const operands = attentionOperands(
          bench,
          { lengths, heads: 2, kvHeads: 2, depth, page },
          dtype,
          kvType,
        );
        const op = { op: 'attention', ...operands, score: { scale: 0.2, windowTokens } } as const;
        await device.run(op, bench);
        const clean = bench.memory.read(op.out);
        const seen = seenPlaces(bench.memory.read(op.tables.pages), { lengths, page, windowTokens });
        spoil(bench, op, (from, offset) => !seen.has(`${from},${offset}`));
        await device.run(op, bench);
        expect(bench.memory.read(op.out)).toEqual(clean);
      }
    },
  );

  // What is rounded to fewer bits takes the same way as what is not.
  it.each(kinds.filter(({ dtype, kvType }) => dtype === kvType || !isFloat(kvType)))(
    'attention gives the same bits however a prompt of $dtype over $kvType is cut into calls',
    async ({ dtype, kvType }) => {
      for (const { tokens, heads, steps, windowTokens } of asked.cuts.slice(dtype === kvType ? 0 : -1)) {
        const bench = device.workbench(4, dtype === 'f32');
        const shape = { lengths: [[tokens, tokens]] as const, heads, kvHeads: 2, depth: 40, page: 16 };
        const whole = attentionOperands(bench, shape, dtype, kvType);
        const base = { op: 'attention', ...whole, score: { scale: 0.15, windowTokens } } as const;
        device.use(2);
        await device.run({ ...base, out: whole.out, q: whole.q, tables: whole.tables }, bench);
        const together = bench.memory.read(whole.out);
        for (const step of steps) {
          device.use(1 + (step % 3));
          for (let first = 0; first < tokens; first += step) {
            const count = Math.min(step, tokens - first);
            const tables = {
              ...whole.tables,
              sequences: bench.table([[0, count, first + count, 0]]),
              positions: bench.index(Array.from({ length: count }, (_, i) => first + i)),
            };
            const part = (tensor: Tensor): Tensor => rowsOf(tensor, first, count);
            await device.run({ ...base, out: part(whole.out), q: part(whole.q), tables }, bench);
          }
          expect(bench.memory.read(whole.out), `in steps of ${step}`).toEqual(together);
        }
      }
    },
  );
}
