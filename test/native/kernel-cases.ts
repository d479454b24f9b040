// Cases of the small kernels for any device, against float64: odd shapes, strided views, awkward places, all types.

import { expect, it } from 'vitest';
import { headPart } from '../../offload/port/tensor.js';
import {
  ACTIVATIONS,
  check as checkOn,
  type KernelDevice,
  NO_SCALES,
  WEIGHT_TYPES,
  type Workbench,
} from './workbench.js';

const GATHERED = [
  [0, 8],
  [1, 1],
  [5, 37],
  [40, 130],
] as const;
const NORMED = [
  [0, 8],
  [1, 1],
  [3, 7],
  [17, 100],
  [2, 3, 40],
  [2, 1030],
  [3, 4096],
];
const ADDED = [[0, 3], [1], [7], [5, 61], [3, 4, 19], [2, 2, 3, 9], [6, 128]];
const ROTATED = [
  [0, 2, 8, 4],
  [3, 2, 8, 4],
  [5, 3, 22, 11],
  [4, 1, 80, 16],
] as const;
const NOT_FINITE = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
/** Relative accuracy of activations near zero, where absolute error would hide: of values up to 0.06. */
const NEAR_ZERO = { cpu: 1e-8, cuda: 5e-8 } as const;

export function kernelCases(device: KernelDevice): void {
  const check = (bench: Workbench, op: Parameters<typeof checkOn>[2], tolerance?: number) =>
    checkOn(device, bench, op, tolerance);

  it.each(WEIGHT_TYPES)('gather_rows from a %s table', async (dtype) => {
    device.use();
    for (const [tokens, length] of GATHERED) {
      const bench = device.workbench(tokens + length);
      const table = bench.weight(dtype, [11, length]);
      const rows = bench.index(Array.from({ length: tokens }, () => bench.int(11)));
      const out = bench.activation([tokens, length]);
      await check(bench, { op: 'gather_rows', out, table, rows, accumulate: false, scale: 1 });
      await check(bench, { op: 'gather_rows', out, table, rows, accumulate: true, scale: 2.5 });
    }
  });

  it.each(WEIGHT_TYPES)('layer_norm and rms_norm with %s weights', async (dtype) => {
    device.use();
    for (const shape of NORMED) {
      const bench = device.workbench(shape.length * 7 + (shape[1] ?? 0));
      const length = shape.at(-1) ?? 0;
      const [weight, bias] = [bench.vector(dtype, length), bench.vector(dtype, length)];
      const [x, out] = [bench.activation(shape, 30), bench.activation(shape)];
      await check(bench, { op: 'layer_norm', out, x, weight, bias, eps: 1e-5 });
      await check(bench, { op: 'layer_norm', out, x, weight, bias: null, eps: 1e-5 });
      await check(bench, { op: 'rms_norm', out, x, weight, eps: 1e-6, weightOffset: 1 });
      // In place, as the forward of a model may ask for.
      await check(bench, { op: 'rms_norm', out: x, x, weight, eps: 1e-6, weightOffset: 0 });
      await check(bench, { op: 'layer_norm', out: x, x, weight, bias, eps: 1e-5 });
      await check(bench, { op: 'layer_norm', out, x, weight, bias, eps: 1e-5, weightOffset: 1 });
      await check(bench, { op: 'rms_norm', out, x, weight: null, eps: 1e-6, weightOffset: 0 });
    }
  });

  it('layer_norm with a weight of its own for every head', async () => {
    device.use();
    for (const [tokens, heads, depth] of [
      [1, 1, 8],
      [3, 5, 37],
      [4, 3, 128],
      [2, 2, 1040],
    ] as const) {
      for (const awkward of device.placings) {
        const bench = device.workbench(depth, awkward);
        const [x, out] = [bench.activation([tokens, heads, depth]), bench.activation([tokens, heads, depth])];
        for (const dtype of WEIGHT_TYPES) {
          const weight = bench.weight(dtype, [heads, depth]);
          await check(bench, { op: 'layer_norm', out, x, weight, bias: null, eps: 1e-5 });
        }
      }
    }
  });

  it.each(ACTIVATIONS)('gated %s, over the whole range', async (activation) => {
    device.use();
    const bench = device.workbench(5);
    const plain = { op: 'gated', limit: 0, limitAfter: false } as const;
    const gate = bench.activation([9, 133], 12);
    const [up, out] = [bench.activation([9, 133]), bench.activation([9, 133])];
    await check(bench, { ...plain, out, gate, up, activation }, 1e-6);
    bench.memory.fill(gate, (i) => (i - 600) * 3);
    await check(bench, { ...plain, out, gate, up, activation }, 1e-6);
    const one = bench.memory.fill(up, () => 1);
    await check(bench, { ...plain, out, gate, up: one, activation }, 1e-6);
    bench.memory.fill(gate, (i) => (i - 600) * 1e-4);
    await check(bench, { ...plain, out, gate, up: one, activation }, NEAR_ZERO[device.kind]);
  });

  it('gated: limits before and after the activation, and NaN on either side', async () => {
    device.use();
    for (const limitAfter of [false, true]) {
      const bench = device.workbench(6);
      const [gate, up] = [bench.activation([9, 136], 12), bench.activation([9, 136], 12)];
      const op = { op: 'gated', out: bench.activation([9, 136]), gate, up, activation: 'silu' } as const;
      await check(bench, { ...op, limit: 7, limitAfter }, 1e-6);
      bench.memory.fill(gate, (i) => (i % 5 === 0 ? Number.NaN : i - 600));
      bench.memory.fill(up, (i) => (i % 7 === 0 ? Number.NaN : 600 - i));
      await check(bench, { ...op, limit: 0.5, limitAfter }, 1e-6);
    }
  });

  it('gated_pairs: limits, and NaN on either side', async () => {
    device.use();
    for (const [rows, length] of [
      [1, 1],
      [9, 133],
      [40, 64],
    ] as const) {
      for (const awkward of device.placings) {
        const bench = device.workbench(length, awkward);
        const [x, out] = [bench.activation([rows, 2 * length], 12), bench.activation([rows, length])];
        await check(bench, { op: 'gated_pairs', out, x, alpha: 1.702, limit: 7 }, 1e-6);
        bench.memory.fill(x, (i) =>
          i % 5 === 0 ? Number.NaN : i % 7 === 0 ? Number.POSITIVE_INFINITY : i - 60,
        );
        await check(bench, { op: 'gated_pairs', out, x, alpha: 1.702, limit: 7 }, 1e-6);
      }
    }
  });

  it('add, scale_cap', async () => {
    device.use();
    for (const shape of ADDED) {
      for (const awkward of device.placings) {
        const bench = device.workbench(shape.length, awkward);
        const [out, a, b] = [bench.activation(shape), bench.activation(shape), bench.activation(shape)];
        await check(bench, { op: 'add', out, a, b }, 1e-7);
        await check(bench, { op: 'add', out: a, a, b }, 1e-7);
        const factor = bench.vector('bf16', 1);
        await check(bench, { op: 'add', out: a, a, b, factor }, 1e-7);
        await check(bench, { op: 'scale_cap', x: a, scale: 0.3, softCap: 0 }, 1e-7);
        await check(bench, { op: 'scale_cap', x: a, scale: 20, softCap: 30 }, 1e-6);
      }
    }
  });

  it('rotary', async () => {
    device.use();
    for (const interleaved of [false, true]) {
      for (const [tokens, heads, depth, pairs] of ROTATED) {
        const bench = device.workbench(depth);
        const x = bench.activation([tokens, heads, depth]);
        const positions = bench.index(Array.from({ length: tokens }, () => bench.int(100_000)));
        const inverseFrequencies = bench.memory.fill(bench.memory.tensor('f32', [pairs]), (i) => 10 ** -i);
        const op = { op: 'rotary', x, positions, inverseFrequencies, interleaved } as const;
        await check(bench, { ...op, scale: 1 }, 1e-6);
        await check(bench, { ...op, scale: 1.25 }, 1e-6);
      }
    }
  });

  it('rotary of a part of each head, back, and not at all', async () => {
    device.use();
    for (const interleaved of [false, true]) {
      for (const first of [0, 6, 17]) {
        const bench = device.workbench(first);
        const x = headPart(bench.activation([5, 3, 41]), first, 24);
        const positions = bench.index([0, 1, 77, 99_000, 12]);
        const frequencies = (of: (i: number) => number) =>
          bench.memory.fill(bench.memory.tensor('f32', [12]), of);
        const op = { op: 'rotary', x, positions, interleaved, scale: 1 } as const;
        const before = bench.memory.read(x);
        await check(bench, { ...op, inverseFrequencies: frequencies((i) => 10 ** (-i / 3)) }, 1e-6);
        await check(bench, { ...op, inverseFrequencies: frequencies((i) => -(10 ** (-i / 3))) }, 1e-6);
        const apart = bench.memory.read(x).map((value, i) => Math.abs(value - (before[i] ?? Number.NaN)));
        expect(Math.max(...apart)).toBeLessThan(1e-5);
        await check(bench, { ...op, inverseFrequencies: frequencies((i) => (i < 3 ? 0.5 : 0)) }, 1e-6);
      }
    }
  });

  it('position_scale: steps at multiples of the length', async () => {
    device.use();
    for (const [heads, depth] of [
      [1, 5],
      [3, 22],
      [2, 64],
    ] as const) {
      for (const awkward of device.placings) {
        const bench = device.workbench(depth, awkward);
        const positions = bench.index([0, 15, 16, 31, 32, 2 ** 20]);
        const x = bench.activation([6, heads, depth]);
        const op = { op: 'position_scale', x, positions, beta: 0.1 } as const;
        await check(bench, { ...op, offset: 0, length: 16 }, 1e-6);
        await check(bench, { ...op, offset: 1, length: 16 }, 1e-6);
      }
    }
  });

  it('clamp: NaN stays', async () => {
    device.use();
    for (const length of [1, 61, 128]) {
      for (const awkward of device.placings) {
        const bench = device.workbench(length, awkward);
        const x = bench.activation([4, length], 8);
        await check(bench, { op: 'clamp', x, limit: 6 }, 0);
        bench.memory.fill(x, (i) => NOT_FINITE[i % 5] ?? i - 60);
        await check(bench, { op: 'clamp', x, limit: 6 }, 0);
      }
    }
  });

  it('kv_store', async () => {
    device.use();
    const bench = device.workbench(9);
    const [keys, values] = [bench.activation([5, 3, 4, 10]), bench.activation([5, 3, 4, 10])];
    const [k, v] = [bench.activation([6, 3, 10]), bench.activation([6, 3, 10])];
    const slots = bench.index([19, 0, 7, 8, 3, 12]);
    await check(bench, { op: 'kv_store', k, v, keys, values, ...NO_SCALES, slots }, 0);
  });

  it('top_tokens: the largest first, of equal ones the lower column, and no NaN', async () => {
    device.use();
    for (const [columns, wanted] of [
      [1, 1],
      [7, 7],
      [33, 5],
      [1000, 20],
      [9000, 20],
    ] as const) {
      const bench = device.workbench(columns);
      const logits = bench.activation([3, columns]);
      const tokens = bench.table(Array.from({ length: 3 }, () => Array.from({ length: wanted }, () => 9)));
      const values = bench.memory.tensor('f32', [3, wanted]);
      const op = { op: 'top_tokens', tokens, values, logits } as const;
      await check(bench, op, 0);
      bench.memory.fill(logits, () => bench.int(40) - 20);
      await check(bench, op, 0);
      const not = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 1];
      bench.memory.fill(logits, () => not[bench.int(not.length)] ?? 0);
      await check(bench, op, 0);
      bench.memory.fill(logits, () => Number.NaN);
      await check(bench, op, 0);
    }
  });

  it('token_rows: the first row where there is no token', async () => {
    device.use();
    const bench = device.workbench(3);
    for (const count of [1, 129]) {
      const tokens = bench.index(
        Array.from({ length: count }, (_, i) => (i % 5 === 0 ? -1 : bench.int(1e6))),
      );
      await check(
        bench,
        { op: 'token_rows', rows: bench.index(new Array<number>(count).fill(7)), tokens },
        0,
      );
    }
  });

  it('argmax: lowest column of a tie, no token where a logit is no finite number', async () => {
    device.use();
    for (const columns of [1, 7, 16, 33, 1000]) {
      const bench = device.workbench(columns);
      const logits = bench.activation([6, columns]);
      // Coarse values make ties.
      bench.memory.fill(logits, () => bench.int(4) - 2);
      const out = bench.index([0, 0, 0, 0, 0, 0]);
      await check(bench, { op: 'argmax', out, logits }, 0);
      // One value in every other row, at any of its columns.
      for (const value of NOT_FINITE) {
        const at = [0, 2, 4].map((row) => row * columns + bench.int(columns));
        bench.memory.fill(logits, (i) => (at.includes(i) ? value : bench.int(9)));
        await check(bench, { op: 'argmax', out, logits }, 0);
        bench.memory.fill(logits, () => value);
        await check(bench, { op: 'argmax', out, logits }, 0);
      }
    }
  });

  it('nll_fold over pieces of a vocabulary', async () => {
    device.use();
    const bench = device.workbench(8);
    // The last two are in no piece: no token, and an id beyond all.
    const targets = bench.index([0, 3, 1500, 2999, 2000, -1, 2 ** 31 - 1]);
    const state = bench.activation([7, 3]);
    for (const [firstColumn, columns] of [
      [0, 1100],
      [1100, 901],
      [2001, 999],
    ] as const) {
      const logits = bench.activation([7, columns], 8);
      const first = firstColumn === 0;
      await check(bench, { op: 'nll_fold', state, logits, targets, firstColumn, first }, 1e-6);
    }
    const logits = bench.activation([7, 40]);
    await check(bench, { op: 'nll_fold', state, logits, targets, firstColumn: 9, first: false }, 1e-6);
  });
  it('nll_fold: a state is NaN from the first logit on that is no finite number', async () => {
    device.use();
    for (const value of NOT_FINITE) {
      for (const at of [0, 36, 40]) {
        const bench = device.workbench(8);
        const targets = bench.index([0, 3, 60, at]);
        const state = bench.activation([4, 3]);
        const logits = bench.memory.fill(bench.activation([4, 41]), (i) => {
          return i % 41 === at && i >= 41 ? value : bench.normal();
        });
        const op = { op: 'nll_fold', state, targets } as const;
        await check(bench, { ...op, logits, firstColumn: 0, first: true }, 1e-6);
        const sound = bench.activation([4, 41]);
        await check(bench, { ...op, logits: sound, firstColumn: 41, first: false }, 1e-6);
      }
    }
  });
}
