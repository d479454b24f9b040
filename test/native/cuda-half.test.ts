// Kernels of the GPU on 16-bit activations against float64: every mixture of types that a forward can meet.

import { describe, it } from 'vitest';
import type { DType } from '../../offload/port/dtype.js';
import type { Activation } from '../../offload/port/ops.js';
import { denseWeight } from '../../offload/port/weights.js';
import { checkOnGpu as check, gpuBench, HAS_GPU, OWN_KERNELS_ONLY } from './cuda-device.js';
import { NO_SCALES } from './workbench.js';

const HALVES: readonly DType[] = ['f16', 'bf16'];
const ACTIVATIONS: readonly Activation[] = [
  'none',
  'relu',
  'gelu',
  'gelu_tanh',
  'gelu_quick',
  'silu',
  'relu2',
];
/** A product stored in 16 bits before its activation is rounded twice; the library's tanh is an approximation. */
const PRODUCT_TOLERANCE: Readonly<Record<string, number>> = { f16: 2e-3, bf16: 8e-3 };

describe.skipIf(!HAS_GPU).each(HALVES)('CUDA kernels on %s', (half) => {
  const other: DType = half === 'f16' ? 'bf16' : 'f16';

  it.each([true, false])('norms from f32 and from 16 bits (awkward %s)', async (awkward) => {
    for (const shape of [
      [0, 8],
      [3, 7],
      [2, 3, 40],
      [17, 512],
      [2, 1030],
      [5, 1024],
      [3, 4096],
      [2, 7176],
      [2, 14336],
      [2, 20000],
    ]) {
      const bench = gpuBench(shape.length * 7 + (shape[1] ?? 0), awkward);
      const length = shape.at(-1) ?? 0;
      const [weight, bias] = [bench.weight(half, [length]), bench.weight('f32', [length])];
      const [x, y] = [bench.activation(shape, 30), bench.activation(shape, 3, half)];
      const out = bench.activation(shape, 1, half);
      await check(bench, { op: 'layer_norm', out, x, weight, bias, eps: 1e-5 });
      await check(bench, { op: 'layer_norm', out, x, weight, bias: null, eps: 1e-5 });
      await check(bench, { op: 'rms_norm', out, x, weight, eps: 1e-6, weightOffset: 1 });
      await check(bench, { op: 'layer_norm', out: x, x: y, weight, bias, eps: 1e-5 });
      await check(bench, { op: 'rms_norm', out: y, x: y, weight, eps: 1e-6, weightOffset: 0 });
      await check(bench, { op: 'rms_norm', out, x, weight: null, eps: 1e-6, weightOffset: 0 });
      const [rows, perHead] = [bench.activation([3, 2, length], 3, half), bench.weight(half, [2, length])];
      await check(bench, { op: 'layer_norm', out: rows, x: rows, weight: perHead, bias: null, eps: 1e-5 });
    }
  });

  for (const awkward of [false, true]) {
    it.each(['f32', half, other] as const)(`linear with %s weights, awkward ${awkward}`, async (dtype) => {
      const shapes = [
        [1, 33, 704],
        [1, 2130, 264],
        [5, 65, 48],
        [8, 64, 256],
        [13, 130, 129],
        [40, 96, 264],
        [70, 3, 600],
        [65, 280, 40],
        [24, 264, 136],
      ] as const;
      for (const [index, [tokens, outputs, inputs]] of shapes.entries()) {
        if (OWN_KERNELS_ONLY && tokens > 8) continue;
        const bench = gpuBench(index, awkward);
        const inputMajor = index % 4 === 3;
        const weight = bench.weight(dtype, inputMajor ? [inputs, outputs] : [outputs, inputs], 0.2);
        const bias = index % 3 === 0 ? null : bench.weight(index % 2 ? half : 'f32', [outputs]);
        const tolerance = PRODUCT_TOLERANCE[dtype === 'f32' ? half : dtype] ?? 0;
        for (const [from, to] of [
          [half, half],
          [half, 'f32'],
          ['f32', half],
        ] as const) {
          const x = bench.activation([tokens, inputs], 1, from);
          const out = bench.activation([tokens, outputs], 1, to);
          const base = { op: 'linear', out, x, weight: denseWeight(weight, inputMajor), bias } as const;
          for (const activation of ACTIVATIONS) {
            await check(bench, { ...base, activation, accumulate: false }, tolerance);
          }
          await check(bench, { ...base, activation: 'none', accumulate: true }, tolerance);
          await check(bench, { ...base, activation: 'gelu', accumulate: true }, tolerance);
        }
      }
    });
  }

  it('products of f32 inputs with few outputs, as a router is, are those of the inputs as they are', async () => {
    // The last one fills enough large tiles, the last of them in part.
    for (const [tokens, outputs, inputs] of [
      [3, 128, 512],
      [40, 128, 512],
      [200, 128, 512],
      [2100, 200, 70],
    ] as const) {
      const bench = gpuBench(tokens, false);
      const weight = bench.weight(half, [outputs, inputs]);
      const [x, out] = [bench.activation([tokens, inputs]), bench.activation([tokens, outputs])];
      const op = {
        op: 'linear',
        out,
        x,
        weight: denseWeight(weight),
        bias: null,
        activation: 'none',
      } as const;
      await check(bench, { ...op, accumulate: false }, 1e-6);
    }
  });

  it.skipIf(OWN_KERNELS_ONLY)(
    'a vector of inputs for products of two types is converted for each (library)',
    async () => {
      const bench = gpuBench(3, false);
      const x = bench.activation([32, 64], 1, half);
      for (const dtype of [other, 'f32', other] as const) {
        const [weight, out] = [bench.weight(dtype, [264, 64]), bench.activation([32, 264], 1, half)];
        const op = {
          op: 'linear',
          out,
          x,
          weight: denseWeight(weight),
          bias: null,
          activation: 'none',
        } as const;
        await check(bench, { ...op, accumulate: false }, 8e-3);
      }
    },
  );

  it('add, gated and combine of mixed types', async () => {
    for (const length of [1, 61, 128, 264]) {
      for (const awkward of [false, true]) {
        const bench = gpuBench(length, awkward);
        const [a, b] = [bench.activation([9, length]), bench.activation([9, length], 1, half)];
        const out = bench.activation([9, length], 1, half);
        await check(bench, { op: 'add', out: a, a, b }, 1e-7);
        await check(bench, { op: 'add', out, a, b }, 1e-7);
        await check(bench, { op: 'add', out: a, a, b, factor: bench.vector(half, 1) }, 1e-7);
        await check(bench, { op: 'scale_cap', x: out, scale: 0.3, softCap: 0 }, 1e-7);
        await check(bench, { op: 'clamp', x: out, limit: 1 }, 0);
        for (const activation of ACTIVATIONS) {
          await check(
            bench,
            { op: 'gated', out, gate: b, up: b, activation, limit: 0, limitAfter: false },
            1e-6,
          );
        }
        const [y, weights] = [bench.activation([27, length], 1, half), bench.activation([9, 3])];
        await check(bench, { op: 'combine', x: a, y, weights, accumulate: true }, 1e-6);
      }
    }
  });

  it('expert_linear from f32, from 16 bits, and from the other 16 bits', async () => {
    const bench = gpuBench(11);
    const experts = bench.table(Array.from({ length: 9 }, () => [bench.int(4), bench.int(4)]));
    const first = bench.weight(half, [22, 72]);
    const weights = [first, first, first, first].map((like, index) =>
      index === 0
        ? like
        : bench.memory.fill(
            bench.memory.tensor(half, [22, 72], 0, (like.strides[0] ?? 72) - 72),
            bench.normal,
          ),
    );
    for (const from of ['f32', half, other] as const) {
      for (const rows of [9, 18]) {
        const [x, out] = [bench.activation([rows, 72], 1, from), bench.activation([18, 22], 1, half)];
        await check(bench, {
          op: 'expert_linear',
          out,
          x,
          experts,
          weights: weights.map((weight) => denseWeight(weight)),
        });
      }
    }
  });

  it('gather_rows into 16 bits', async () => {
    for (const length of [37, 128]) {
      const bench = gpuBench(length);
      const [table, out] = [bench.weight(half, [11, length]), bench.activation([40, length], 1, half)];
      const rows = bench.index(Array.from({ length: 40 }, () => bench.int(11)));
      await check(bench, { op: 'gather_rows', out, table, rows, accumulate: false, scale: 1 });
      await check(bench, { op: 'gather_rows', out, table, rows, accumulate: true, scale: 2.5 });
    }
  });

  it('rotary and kv_store', async () => {
    for (const [depth, awkward] of [
      [16, false],
      [22, true],
      [64, false],
    ] as const) {
      const bench = gpuBench(depth, awkward);
      const qkv = bench.activation([6, 3, depth], 1, half);
      const positions = bench.index(Array.from({ length: 6 }, () => bench.int(5000)));
      const inverseFrequencies = bench.memory.fill(bench.memory.tensor('f32', [8]), (i) => 10 ** -i);
      for (const interleaved of [false, true]) {
        const op = { op: 'rotary', x: qkv, positions, inverseFrequencies, interleaved } as const;
        await check(bench, { ...op, scale: 1.25 }, 1e-6);
      }
      const slots = bench.index([19, 0, 7, 8, 3, 12]);
      for (const from of ['f32', half] as const) {
        const [keys, values] = [
          bench.activation([5, 3, 4, depth], 1, half),
          bench.activation([5, 3, 4, depth], 1, half),
        ];
        const [k, v] = [bench.activation([6, 3, depth], 1, from), bench.activation([6, 3, depth], 1, from)];
        await check(bench, { op: 'kv_store', k, v, keys, values, ...NO_SCALES, slots }, 0);
      }
    }
  });
});
