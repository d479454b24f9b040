// Every kernel of the GPU against float64, on odd shapes, strided views, awkward and aligned places, all weight types.

import { describe, expect, it } from 'vitest';
import type { DType } from '../../offload/dtype.js';
import { native } from '../../offload/native.js';
import type { Activation, Tensor } from '../../offload/ops.js';
import { checkOnGpu as check, type GpuBench, gpuBench, HAS_GPU, rowsOf, runOnGpu } from './cuda-device.js';

const WEIGHT_TYPES: readonly DType[] = ['f32', 'f16', 'bf16'];
const ACTIVATIONS: readonly Activation[] = ['none', 'relu', 'gelu', 'gelu_tanh', 'gelu_quick', 'silu'];
/** Inputs of products are rounded to the weight's type: 11 and 8 bits of mantissa. */
const PRODUCT_TOLERANCE: Readonly<Record<string, number>> = { f32: 2e-5, f16: 1e-3, bf16: 6e-3 };

describe.skipIf(!HAS_GPU)('CUDA kernels', () => {
  it('are compiled for this GPU', () => {
    const [device] = native().cudaStatus().devices;
    expect(Number(device?.computeCapability)).toBeGreaterThanOrEqual(8);
  });

  it.each(WEIGHT_TYPES)('gather_rows from a %s table', async (dtype) => {
    for (const [tokens, length] of [
      [0, 8],
      [1, 1],
      [5, 37],
      [40, 130],
    ] as const) {
      const bench = gpuBench(tokens + length);
      const table = bench.weight(dtype, [11, length]);
      const rows = bench.index(Array.from({ length: tokens }, () => bench.int(11)));
      const out = bench.activation([tokens, length]);
      await check(bench, { op: 'gather_rows', out, table, rows, accumulate: false, scale: 1 });
      await check(bench, { op: 'gather_rows', out, table, rows, accumulate: true, scale: 2.5 });
    }
  });

  it.each(WEIGHT_TYPES)('layer_norm and rms_norm with %s weights', async (dtype) => {
    for (const shape of [
      [0, 8],
      [1, 1],
      [3, 7],
      [17, 100],
      [2, 3, 40],
      [2, 1030],
      [3, 4096],
    ]) {
      const bench = gpuBench(shape.length * 7 + (shape[1] ?? 0));
      const length = shape.at(-1) ?? 0;
      const [weight, bias] = [bench.weight(dtype, [length]), bench.weight(dtype, [length])];
      const [x, out] = [bench.activation(shape, 30), bench.activation(shape)];
      await check(bench, { op: 'layer_norm', out, x, weight, bias, eps: 1e-5 });
      await check(bench, { op: 'layer_norm', out, x, weight, bias: null, eps: 1e-5 });
      await check(bench, { op: 'rms_norm', out, x, weight, eps: 1e-6, weightOffset: 1 });
      await check(bench, { op: 'rms_norm', out: x, x, weight, eps: 1e-6, weightOffset: 0 });
      await check(bench, { op: 'layer_norm', out: x, x, weight, bias, eps: 1e-5 });
    }
  });

  for (const awkward of [false, true]) {
    for (const inputMajor of [false, true]) {
      const name = `${inputMajor ? '[K, N]' : '[N, K]'}, ${awkward ? 'awkward' : 'aligned'}`;
      it.each(WEIGHT_TYPES)(`linear with ${name} weights of %s`, async (dtype) => {
        const shapes = [
          [0, 8, 8],
          [1, 1, 1],
          [1, 5, 0],
          [1, 33, 704],
          [2, 31, 65],
          [3, 100, 1025],
          [4, 9, 512],
          [5, 65, 48],
          [7, 40, 1100],
          [8, 128, 256],
          [13, 130, 129],
          [14, 34, 2049],
          [32, 256, 512],
          [70, 3, 600],
          [300, 37, 19],
          [129, 192, 320],
        ] as const;
        for (const [index, [tokens, outputs, inputs]] of shapes.entries()) {
          const bench = gpuBench(index, awkward);
          const weight = bench.weight(dtype, inputMajor ? [inputs, outputs] : [outputs, inputs]);
          const bias = index % 3 === 0 ? null : bench.weight(WEIGHT_TYPES[index % 3] ?? 'f32', [outputs]);
          const activation = ACTIVATIONS[index % ACTIVATIONS.length] ?? 'none';
          const x = bench.activation([tokens, inputs]);
          const out = bench.activation([tokens, outputs]);
          const base = { op: 'linear', out, x, weight, bias, inputMajor } as const;
          const tolerance = PRODUCT_TOLERANCE[dtype] ?? 0;
          await check(bench, { ...base, activation, accumulate: index % 2 === 1 }, tolerance);
          await check(bench, { ...base, activation: 'none', accumulate: index % 2 === 0 }, tolerance);
        }
      });
    }
  }

  it('linear for a few tokens gives the same bits alone and in any batch', async () => {
    for (const dtype of WEIGHT_TYPES) {
      const bench = gpuBench(2, false);
      const [tokens, outputs, inputs] = [8, 67, 1104];
      const weight = bench.weight(dtype, [outputs, inputs]);
      const [x, out] = [bench.activation([tokens, inputs]), bench.activation([tokens, outputs])];
      const base = { op: 'linear', weight, bias: null, inputMajor: false, activation: 'gelu' } as const;
      await runOnGpu({ ...base, out, x, accumulate: false }, bench.memory);
      const together = bench.memory.read(out);
      for (const count of [1, 2, 3, 4, 5, 7]) {
        for (const first of [0, tokens - count]) {
          const part = (tensor: Tensor): Tensor => rowsOf(tensor, first, count);
          await runOnGpu({ ...base, out: part(out), x: part(x), accumulate: false }, bench.memory);
        }
        expect(bench.memory.read(out), `${dtype} ${count}`).toEqual(together);
      }
    }
  });

  it('the same inputs for several products are converted once, and again when they change', async () => {
    const bench = gpuBench(3, false);
    const weight = bench.weight('bf16', [64, 64]);
    const x = bench.activation([32, 64]);
    const [first, second] = [bench.activation([32, 64]), bench.activation([32, 64])];
    const base = { op: 'linear', weight, bias: null, inputMajor: false, activation: 'none' } as const;
    await check(bench, { ...base, x, out: first, accumulate: false }, 6e-3);
    await check(bench, { ...base, x, out: x, accumulate: true }, 6e-3);
    await check(bench, { ...base, x, out: second, accumulate: false }, 6e-3);
  });

  it.each(ACTIVATIONS)('gated %s, over the whole range', async (activation) => {
    const bench = gpuBench(5);
    const gate = bench.activation([9, 133], 12);
    const [up, out] = [bench.activation([9, 133]), bench.activation([9, 133])];
    await check(bench, { op: 'gated', out, gate, up, activation }, 1e-6);
    bench.memory.fill(gate, (i) => (i - 600) * 3);
    await check(bench, { op: 'gated', out, gate, up, activation }, 1e-6);
  });

  it('add, scale_cap', async () => {
    for (const shape of [[0, 3], [1], [7], [5, 61], [3, 4, 19], [2, 2, 3, 9], [6, 128]]) {
      for (const awkward of [false, true]) {
        const bench = gpuBench(shape.length, awkward);
        const [out, a, b] = [bench.activation(shape), bench.activation(shape), bench.activation(shape)];
        await check(bench, { op: 'add', out, a, b }, 1e-7);
        await check(bench, { op: 'add', out: a, a, b }, 1e-7);
        await check(bench, { op: 'scale_cap', x: a, scale: 0.3, softCap: 0 }, 1e-7);
        await check(bench, { op: 'scale_cap', x: a, scale: 20, softCap: 30 }, 1e-6);
      }
    }
  });

  it('rotary', async () => {
    for (const interleaved of [false, true]) {
      for (const [tokens, heads, depth, pairs] of [
        [0, 2, 8, 4],
        [3, 2, 8, 4],
        [5, 3, 22, 11],
        [4, 1, 80, 16],
      ] as const) {
        const bench = gpuBench(depth);
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
    const bench = gpuBench(9);
    const [keys, values] = [bench.activation([5, 3, 4, 10]), bench.activation([5, 3, 4, 10])];
    const [k, v] = [bench.activation([6, 3, 10]), bench.activation([6, 3, 10])];
    const slots = bench.index([19, 0, 7, 8, 3, 12]);
    await check(bench, { op: 'kv_store', k, v, keys, values, slots }, 0);
  });

  it('argmax: lowest column of a tie, NaN never wins', async () => {
    for (const columns of [1, 7, 33, 1000]) {
      const bench = gpuBench(columns);
      const logits = bench.activation([6, columns]);
      bench.memory.fill(logits, () => bench.int(4) - 2); // coarse values make ties
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
    const bench = gpuBench(8);
    const targets = bench.index([0, 3, 1500, 2999, 2000]);
    const state = bench.activation([5, 3]);
    for (const [firstColumn, columns] of [
      [0, 1100],
      [1100, 901],
      [2001, 999],
    ] as const) {
      const logits = bench.activation([5, columns], 8);
      const first = firstColumn === 0;
      await check(bench, { op: 'nll_fold', state, logits, targets, firstColumn, first }, 1e-6);
    }
    const masked = bench.memory.fill(bench.activation([5, 9]), () => Number.NEGATIVE_INFINITY);
    await check(bench, { op: 'nll_fold', state, logits: masked, targets, firstColumn: 0, first: true }, 0);
    const logits = bench.activation([5, 40]);
    await check(bench, { op: 'nll_fold', state, logits, targets, firstColumn: 9, first: false }, 1e-6);
  });

  it('route, expert_linear and combine', async () => {
    for (const [tokens, experts, each] of [
      [1, 1, 1],
      [5, 4, 2],
      [9, 37, 8],
      [40, 128, 8],
    ] as const) {
      const bench = gpuBench(experts);
      const logits = bench.activation([tokens, experts], 3);
      const chosen = bench.table(Array.from({ length: tokens }, () => Array<number>(each).fill(-1)));
      const weights = bench.activation([tokens, each]);
      for (const normalize of [false, true]) {
        await check(bench, { op: 'route', experts: chosen, weights, logits, normalize }, 1e-6);
      }
      for (const dtype of WEIGHT_TYPES) await checkExperts(bench, dtype, tokens, experts, chosen, weights);
      bench.memory.fill(logits, () => bench.int(3));
      await check(bench, { op: 'route', experts: chosen, weights, logits, normalize: true }, 1e-6);
    }
  });
});

async function checkExperts(
  bench: GpuBench,
  dtype: DType,
  tokens: number,
  experts: number,
  chosen: Tensor,
  weights: Tensor,
): Promise<void> {
  const each = chosen.shape[1] ?? 0;
  const first = bench.weight(dtype, [22, 70]);
  const others = Array.from({ length: experts - 1 }, () => {
    const like = bench.memory.tensor(dtype, [22, 70], 0, (first.strides[0] ?? 70) - 70);
    return bench.memory.fill(like, bench.normal);
  });
  const all = [first, ...others];
  const y = bench.activation([tokens * each, 22]);
  const shared = bench.activation([tokens, 70]);
  await check(bench, { op: 'expert_linear', out: y, x: shared, experts: chosen, weights: all });
  const own = bench.activation([tokens * each, 70]);
  await check(bench, { op: 'expert_linear', out: y, x: own, experts: chosen, weights: all });
  await check(bench, { op: 'combine', x: bench.activation([tokens, 22]), y, weights });
}
