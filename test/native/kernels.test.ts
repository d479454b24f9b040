// Every kernel against float64, on odd shapes, strided views, misaligned weights, all weight types and instruction sets.

import { describe, expect, it } from 'vitest';
import { native } from '../../offload/native.js';
import type { Activation, AttentionTables, Tensor } from '../../offload/ops.js';
import { check, ISAS, rowsOf, run, WEIGHT_TYPES, type Workbench, workbench } from './workbench.js';

const ACTIVATIONS: readonly Activation[] = ['none', 'relu', 'gelu', 'gelu_tanh', 'gelu_quick', 'silu'];

/** Ragged sequences over shuffled pages: `lengths` are [new tokens, context after them]. */
function attentionCase(
  bench: Workbench,
  lengths: readonly (readonly [number, number])[],
  heads: number,
  kvHeads: number,
  depth: number,
  pageTokens: number,
) {
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
    q: bench.activation([token, heads, depth]),
    out: bench.activation([token, heads, depth]),
    keys: bench.activation([total, kvHeads, pageTokens, depth]),
    values: bench.activation([total, kvHeads, pageTokens, depth]),
  };
}

for (const isa of ISAS) {
  const present = native().instructionSets().includes(isa);
  describe.skipIf(!present)(`kernels for ${isa}`, () => {
    const use = (threads = 2) => native().configureCpu({ threads, isa });

    it.each(WEIGHT_TYPES)('gather_rows from a %s table', async (dtype) => {
      use();
      for (const [tokens, length] of [
        [0, 8],
        [1, 1],
        [5, 37],
        [40, 130],
      ] as const) {
        const bench = workbench(tokens + length);
        const table = bench.weight(dtype, [11, length]);
        const rows = bench.index(Array.from({ length: tokens }, () => bench.int(11)));
        const out = bench.activation([tokens, length]);
        await check(bench, { op: 'gather_rows', out, table, rows, accumulate: false, scale: 1 });
        await check(bench, { op: 'gather_rows', out, table, rows, accumulate: true, scale: 2.5 });
      }
    });

    it.each(WEIGHT_TYPES)('layer_norm and rms_norm with %s weights', async (dtype) => {
      use();
      for (const shape of [
        [0, 8],
        [1, 1],
        [3, 7],
        [17, 100],
        [2, 3, 40],
        [2, 1030],
      ]) {
        const bench = workbench(shape.length * 7 + (shape[1] ?? 0));
        const length = shape.at(-1) ?? 0;
        const [weight, bias] = [bench.vector(dtype, length), bench.vector(dtype, length)];
        const [x, out] = [bench.activation(shape, 30), bench.activation(shape)];
        await check(bench, { op: 'layer_norm', out, x, weight, bias, eps: 1e-5 });
        await check(bench, { op: 'layer_norm', out, x, weight, bias: null, eps: 1e-5 });
        await check(bench, { op: 'rms_norm', out, x, weight, eps: 1e-6, weightOffset: 1 });
        // In place, as the forward of a model may ask for.
        await check(bench, { op: 'rms_norm', out: x, x, weight, eps: 1e-6, weightOffset: 0 });
        await check(bench, { op: 'layer_norm', out: x, x, weight, bias, eps: 1e-5 });
      }
    });

    it.each(ACTIVATIONS)('gated %s, over the whole range', async (activation) => {
      use();
      const bench = workbench(5);
      const gate = bench.activation([9, 133], 12);
      const [up, out] = [bench.activation([9, 133]), bench.activation([9, 133])];
      await check(bench, { op: 'gated', out, gate, up, activation }, 1e-6);
      const one = bench.memory.fill(up, () => 1);
      // Relative accuracy near zero, where absolute error would hide.
      bench.memory.fill(gate, (i) => (i - 600) * 1e-4);
      await check(bench, { op: 'gated', out, gate, up: one, activation }, 1e-8);
      bench.memory.fill(gate, (i) => (i - 600) * 3);
      await check(bench, { op: 'gated', out, gate, up: one, activation }, 1e-6);
    });

    it('add, scale_cap', async () => {
      use();
      for (const shape of [[0, 3], [1], [7], [5, 61], [3, 4, 19], [2, 2, 3, 9]]) {
        const bench = workbench(shape.length);
        const [out, a, b] = [bench.activation(shape), bench.activation(shape), bench.activation(shape)];
        await check(bench, { op: 'add', out, a, b }, 1e-7);
        await check(bench, { op: 'add', out: a, a, b }, 1e-7);
        await check(bench, { op: 'scale_cap', x: a, scale: 0.3, softCap: 0 }, 1e-7);
        await check(bench, { op: 'scale_cap', x: a, scale: 20, softCap: 30 }, 1e-6);
      }
    });

    it('rotary', async () => {
      use();
      for (const interleaved of [false, true]) {
        for (const [tokens, heads, depth, pairs] of [
          [0, 2, 8, 4],
          [3, 2, 8, 4],
          [5, 3, 22, 11],
          [4, 1, 80, 16],
        ] as const) {
          const bench = workbench(depth);
          const x = bench.activation([tokens, heads, depth]);
          const positions = bench.index(Array.from({ length: tokens }, () => bench.int(100_000)));
          const inverseFrequencies = bench.memory.fill(bench.memory.tensor('f32', [pairs]), (i) => 10 ** -i);
          const op = { op: 'rotary', x, positions, inverseFrequencies, interleaved } as const;
          await check(bench, { ...op, scale: 1 }, 1e-6);
          await check(bench, { ...op, scale: 1.25 }, 1e-6);
        }
      }
    });

    it('kv_store', async () => {
      use();
      const bench = workbench(9);
      const [keys, values] = [bench.activation([5, 3, 4, 10]), bench.activation([5, 3, 4, 10])];
      const [k, v] = [bench.activation([6, 3, 10]), bench.activation([6, 3, 10])];
      const slots = bench.index([19, 0, 7, 8, 3, 12]);
      await check(bench, { op: 'kv_store', k, v, keys, values, slots }, 0);
    });

    it('attention: ragged, paged, grouped heads, any head size', async () => {
      use();
      const cases = [
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
            [1, 130],
          ],
          heads: 8,
          kvHeads: 1,
          depth: 64,
          page: 32,
        },
        { lengths: [[2, 66]], heads: 71, kvHeads: 1, depth: 20, page: 7 },
        { lengths: [[4, 20]], heads: 5, kvHeads: 2, depth: 128, page: 64 },
      ] as const;
      for (const [index, { lengths, heads, kvHeads, depth, page }] of cases.entries()) {
        const bench = workbench(index);
        const operands = attentionCase(bench, lengths, heads, kvHeads, depth, page);
        const scale = 1 / Math.sqrt(depth);
        const op = { op: 'attention', ...operands, scale, alibiSlopes: null } as const;
        await check(bench, { ...op, windowTokens: 0, softCap: 0 });
        await check(bench, { ...op, windowTokens: 10, softCap: 0 });
        await check(bench, { ...op, windowTokens: 33, softCap: 2 });
        const alibiSlopes = bench.memory.fill(bench.memory.tensor('f32', [heads]), (i) => 0.5 ** (i + 1));
        await check(bench, { ...op, alibiSlopes, windowTokens: 0, softCap: 0 });
      }
    });

    it('attention never reads what no token sees', async () => {
      use();
      const bench = workbench(3);
      const { tables, q, out, keys, values } = attentionCase(
        bench,
        [
          [3, 21],
          [1, 40],
        ],
        2,
        2,
        24,
        16,
      );
      const op = {
        op: 'attention',
        ...{ tables, q, out, keys, values, scale: 0.2, alibiSlopes: null, windowTokens: 6, softCap: 0 },
      } as const;
      await run(op);
      const clean = bench.memory.read(out);
      // Positions 15 … 20 and 35 … 39 are seen, positions 13 and 14 by the earlier tokens.
      const pages = bench.memory.read(tables.pages);
      const seen = new Set<string>();
      for (const [first, from, to] of [
        [0, 13, 21],
        [2, 34, 40],
      ] as const) {
        for (let j = from; j < to; j++) seen.add(`${pages[first + Math.floor(j / 16)]},${j % 16}`);
      }
      for (const tensor of [keys, values]) {
        const before = bench.memory.read(tensor);
        bench.memory.fill(tensor, (i) => {
          const [offset, page] = [Math.floor(i / 24) % 16, Math.floor(i / 24 / 16 / 2)];
          return seen.has(`${page},${offset}`) ? (before[i] ?? 0) : Number.NaN;
        });
      }
      await run(op);
      expect(bench.memory.read(out)).toEqual(clean);
    });

    it('attention gives the same bits however a prompt is cut into calls', async () => {
      for (const windowTokens of [0, 19]) {
        const bench = workbench(4);
        const total = 90;
        const whole = attentionCase(bench, [[total, total]], 6, 2, 40, 16);
        const base = {
          op: 'attention',
          ...{
            keys: whole.keys,
            values: whole.values,
            scale: 0.15,
            alibiSlopes: null,
            windowTokens,
            softCap: 0,
          },
        } as const;
        use(2);
        await run({ ...base, out: whole.out, q: whole.q, tables: whole.tables });
        const together = bench.memory.read(whole.out);
        for (const step of [1, 7, 31]) {
          use(1 + (step % 3));
          for (let first = 0; first < total; first += step) {
            const count = Math.min(step, total - first);
            const tables = {
              ...whole.tables,
              sequences: bench.table([[0, count, first + count, 0]]),
              positions: bench.index(Array.from({ length: count }, (_, i) => first + i)),
            };
            const part = (tensor: Tensor): Tensor => rowsOf(tensor, first, count);
            await run({ ...base, out: part(whole.out), q: part(whole.q), tables });
          }
          expect(bench.memory.read(whole.out), `in steps of ${step}`).toEqual(together);
        }
      }
    });

    it('argmax: lowest column of a tie, NaN never wins', async () => {
      use();
      for (const columns of [1, 7, 16, 33, 1000]) {
        const bench = workbench(columns);
        const logits = bench.activation([6, columns]);
        // Coarse values make ties.
        bench.memory.fill(logits, () => bench.int(4) - 2);
        const out = bench.index([0, 0, 0, 0, 0, 0]);
        await check(bench, { op: 'argmax', out, logits }, 0);
        bench.memory.fill(logits, (i) => (i % 3 === 0 ? Number.NaN : bench.int(9)));
        await check(bench, { op: 'argmax', out, logits }, 0);
        bench.memory.fill(logits, () => Number.NaN);
        await check(bench, { op: 'argmax', out, logits }, 0);
        bench.memory.fill(logits, () => Number.NEGATIVE_INFINITY);
        await check(bench, { op: 'argmax', out, logits }, 0);
      }
    });

    it('nll_fold over pieces of a vocabulary', async () => {
      use();
      const bench = workbench(8);
      const targets = bench.index([0, 3, 1500, 2999, 2000]);
      const state = bench.activation([5, 3]);
      const pieces = [
        { firstColumn: 0, columns: 1100 },
        { firstColumn: 1100, columns: 901 },
        { firstColumn: 2001, columns: 999 },
      ];
      for (const { firstColumn, columns } of pieces) {
        const logits = bench.activation([5, columns], 8);
        await check(
          bench,
          { op: 'nll_fold', state, logits, targets, firstColumn, first: firstColumn === 0 },
          1e-6,
        );
      }
      const masked = bench.memory.fill(bench.activation([5, 9]), () => Number.NEGATIVE_INFINITY);
      await check(bench, { op: 'nll_fold', state, logits: masked, targets, firstColumn: 0, first: true }, 0);
      const logits = bench.activation([5, 40]);
      await check(bench, { op: 'nll_fold', state, logits, targets, firstColumn: 9, first: false }, 1e-6);
    });
  });
}
