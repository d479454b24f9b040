// Kernels of the GPU against float64: the cases of every device, and what only a GPU has: few tokens, converted inputs.

import { describe, expect, it } from 'vitest';
import { native } from '../../offload/port/native.js';
import { PLAIN_ROUTE, type Tensor } from '../../offload/port/ops.js';
import { denseWeight } from '../../offload/port/weights.js';
import { checkOnGpu as check, GPU_KERNELS, gpuBench, HAS_GPU, rowsOf, runOnGpu } from './cuda-device.js';
import { expertCases } from './expert-cases.js';
import { kernelCases } from './kernel-cases.js';
import { linearCases } from './linear-cases.js';
import { routeCases } from './route-cases.js';
import { WEIGHT_TYPES } from './workbench.js';

describe.skipIf(!HAS_GPU)('CUDA kernels', () => {
  it('are compiled for this GPU', () => {
    const [device] = native().cudaStatus().devices;
    expect(Number(device?.computeCapability)).toBeGreaterThanOrEqual(8);
  });

  kernelCases(GPU_KERNELS);
  linearCases(GPU_KERNELS);
  routeCases(GPU_KERNELS);
  expertCases(GPU_KERNELS);

  it('linear for a few tokens gives the same bits alone and in any batch', async () => {
    for (const dtype of WEIGHT_TYPES) {
      const bench = gpuBench(2, false);
      const [tokens, outputs, inputs] = [8, 67, 1104];
      const weight = bench.weight(dtype, [outputs, inputs]);
      const [x, out] = [bench.activation([tokens, inputs]), bench.activation([tokens, outputs])];
      const base = { op: 'linear', weight: denseWeight(weight), bias: null, activation: 'gelu' } as const;
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
    const base = { op: 'linear', weight: denseWeight(weight), bias: null, activation: 'none' } as const;
    await check(bench, { ...base, x, out: first, accumulate: false }, 6e-3);
    await check(bench, { ...base, x, out: x, accumulate: true }, 6e-3);
    await check(bench, { ...base, x, out: second, accumulate: false }, 6e-3);
  });

  it('expert_linear follows the choices of route', async () => {
    for (const [tokens, experts, each] of [
      [1, 1, 1],
      [5, 4, 2],
      [9, 37, 8],
      [40, 128, 8],
    ] as const) {
      const bench = gpuBench(experts);
      const logits = bench.activation([tokens, experts], 3);
      const chosen = bench.table(Array.from({ length: tokens }, () => Array<number>(each).fill(-1)));
      const none = { bias: null, expertScale: null, table: null, rows: null };
      const routed = { experts: chosen, weights: bench.activation([tokens, each]), logits, ...none };
      await check(bench, { op: 'route', ...routed, rule: { ...PLAIN_ROUTE, normalize: true } }, 1e-6);
      for (const dtype of WEIGHT_TYPES) {
        const weights = bench.weights(dtype, experts, [22, 70]);
        const [x, out] = [bench.activation([tokens, 70]), bench.activation([tokens * each, 22])];
        await check(bench, {
          op: 'expert_linear',
          out,
          x,
          experts: chosen,
          weights: weights.map((weight) => denseWeight(weight)),
        });
      }
    }
  });
});
