// Cases of caches in every type for any device: what kv_store makes of values, and that attention finds what is not finite.

import { expect, it } from 'vitest';
import type { FloatType } from '../../offload/port/dtype.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import { attentionOperands } from './attention-cases.js';
import { filledCache, KV_TYPES } from './cache-operands.js';
import { expectedOf } from './expected.js';
import type { KernelDevice, Workbench } from './workbench.js';

/** Heads of sizes that are multiples of a vector, of a group of 32, of both, and of nothing. */
const DEPTHS = [2, 32, 37, 80, 128] as const;

/** What k and v hold: ordinary values, and in one head each what codes could lose. */
const HEADS: readonly ((bench: Workbench, d: number) => number)[] = [
  (bench) => bench.normal() * 3,
  () => 0,
  (bench, d) => (d === 1 ? 1e30 : bench.normal() * 1e-3),
  (bench, d) => (d % 2 === 0 ? 70000 : bench.normal()),
  (bench) => bench.normal() * 1e-9,
  (bench, d) => (d === 0 ? Number.NaN : bench.normal()),
  (bench, d) => (d === 1 ? Number.POSITIVE_INFINITY : bench.normal()),
  (bench, d) => (d === 0 ? Number.NEGATIVE_INFINITY : bench.normal()),
  // Halves between two codes, and the largest one.
  (_, d) => (d === 0 ? 127 : (d % 7) + 0.5),
  (_, d) => (d === 0 ? -448 : (d % 9) * 2 ** -9 + 2 ** -10),
];

export interface CacheCases {
  /** The types of k, v, queries and results. */
  readonly types: readonly FloatType[];
}

export function cacheCases(device: KernelDevice, { types }: CacheCases): void {
  const pairs = types.flatMap((dtype) => KV_TYPES.map((kvType) => ({ dtype, kvType })));

  it.each(pairs)('kv_store of $dtype as $kvType, to the bit', async ({ dtype, kvType }) => {
    device.use();
    for (const awkward of device.placings) {
      for (const depth of DEPTHS) {
        if (kvType === 'u8' && depth % 2 !== 0) continue;
        const bench = device.workbench(depth, awkward);
        const cache = filledCache(bench, kvType, { pages: 5, kvHeads: HEADS.length, pageTokens: 4, depth });
        const [k, v] = [1, 2].map(() => bench.activation([3, HEADS.length, depth], 1, dtype)) as [
          Tensor,
          Tensor,
        ];
        for (const from of [k, v]) {
          const head = (i: number) => HEADS[Math.floor(i / depth) % HEADS.length] ?? HEADS[0];
          bench.memory.fill(from, (i) => head(i)?.(bench, i % depth) ?? 0);
        }
        const op = { op: 'kv_store', k, v, ...cache, slots: bench.index([19, 0, 7]) } as const;
        await expectStored(device, bench, op);
      }
    }
  });

  it.each(pairs)('kv_store of $dtype as $kvType, values of another size or in their keys', async (pair) => {
    device.use();
    for (const awkward of device.placings) {
      for (const inKeys of [false, true]) {
        const bench = device.workbench(awkward ? 1 : 2, awkward);
        const sizes = { pages: 5, kvHeads: 3, pageTokens: 4, depth: 96, valueDepth: 64, inKeys };
        const cache = filledCache(bench, pair.kvType, sizes);
        const k = bench.activation([3, 3, 96], 1, pair.dtype);
        const v = inKeys ? null : bench.activation([3, 3, 64], 1, pair.dtype);
        const op = { op: 'kv_store', k, v, ...cache, slots: bench.index([19, 0, 7]) } as const;
        await expectStored(device, bench, op);
      }
    }
  });

  it.each(pairs)('what %s cannot hold is found by attention', async ({ dtype, kvType }) => {
    device.use();
    const lengths = [
      [3, 3],
      [2, 40],
    ] as const;
    const bench = device.workbench(2, false);
    const shape = { lengths, heads: 4, kvHeads: 2, depth: 64, page: 16 };
    const operands = attentionOperands(bench, shape, dtype, kvType);
    const [k, v] = [1, 2].map(() => bench.activation([5, 2, 64], 1, dtype)) as [Tensor, Tensor];
    const sound = bench.memory.read(k);
    const { tables, out } = operands;
    const store = { ...operands, op: 'kv_store', k, v, slots: tables.slots } as const;
    const lost = dtype === kvType ? [] : [1e39, kvType === 'f16' ? 1e5 : Number.NaN];
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, ...lost]) {
      for (const from of [k, v]) {
        // The second token of the first sequence, in its first head; a float type of its own holds infinite keys, which
        // a score may lose.
        if (dtype === kvType && from === k && !Number.isNaN(value)) continue;
        bench.memory.fill(from, (i) => (i === 2 * 64 + 5 ? value : (sound[i] ?? 0)));
        await device.run(store, bench);
        for (const [windowTokens, softCap] of [
          [0, 0],
          [2, 5],
        ] as const) {
          const score = { scale: 0.1, windowTokens, softCap };
          await device.run({ op: 'attention', ...operands, score }, bench);
          const rows = bench.memory.read(out);
          const isBad = (row: number) => !Number.isFinite(rows[row * 64 + 5]);
          const what = `${value} of ${from === k ? 'keys' : 'values'}, window ${windowTokens}`;
          // Two heads of queries read it, from its token on; what their earlier token gets does not matter.
          expect(
            [4, 5, 8, 9].filter((row) => !isBad(row)),
            what,
          ).toEqual([]);
          expect([2, 3, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19].filter(isBad), what).toEqual([]);
        }
        bench.memory.fill(from, (i) => sound[i] ?? 0);
      }
    }
  });
}

/** Runs it, and compares the whole cache with the reference's, to the bit. */
export async function expectStored(
  device: Pick<KernelDevice, 'run'>,
  bench: Workbench,
  op: Op & { op: 'kv_store' },
): Promise<void> {
  const expected = expectedOf(op, bench.memory);
  await device.run(op, bench);
  for (const { tensor, values } of expected) {
    const actual = bench.memory.read(tensor);
    const wrong = values.findIndex((want, i) => !same(want, actual[i]));
    const what = `heads of ${op.k.shape[2]}, ${tensor.dtype} ${wrong} of [${tensor.shape}]`;
    expect(actual[wrong], what).toBe(values[wrong]);
  }
}

/** Zeros of either sign are the same. */
function same(want: number, got: number | undefined): boolean {
  return got === want || Object.is(got, want);
}
