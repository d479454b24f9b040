// Cases of products for any device, against float64: odd shapes, both layouts of weights, all types and activations.

import { it } from 'vitest';
import { denseWeight } from '../../offload/port/weights.js';
import { ACTIVATIONS, check, type KernelDevice, WEIGHT_TYPES } from './workbench.js';

/** [tokens, outputs, inputs] */
const SHAPES = [
  [0, 8, 8],
  [1, 1, 1],
  [1, 5, 0],
  [1, 33, 700],
  [1, 33, 704],
  [2, 31, 65],
  [3, 100, 1025],
  [4, 9, 512],
  [4, 9, 513],
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

export function linearCases(device: KernelDevice): void {
  for (const awkward of device.placings) {
    for (const inputMajor of [false, true]) {
      const name = `${inputMajor ? '[K, N]' : '[N, K]'}, ${awkward ? 'awkward' : 'aligned'}`;
      it.each(WEIGHT_TYPES)(`linear with ${name} weights of %s`, async (dtype) => {
        device.use();
        for (const [index, [tokens, outputs, inputs]] of SHAPES.entries()) {
          const bench = device.workbench(index, awkward);
          const weight = bench.weight(dtype, inputMajor ? [inputs, outputs] : [outputs, inputs]);
          const bias = index % 3 === 0 ? null : bench.vector(WEIGHT_TYPES[index % 3] ?? 'f32', outputs);
          const activation = ACTIVATIONS[index % ACTIVATIONS.length] ?? 'none';
          const x = device.productInput(bench, dtype, [tokens, inputs]);
          const out = bench.activation([tokens, outputs]);
          const base = { op: 'linear', out, x, weight: denseWeight(weight, inputMajor), bias } as const;
          const tolerance = device.productTolerance(dtype);
          await check(device, bench, { ...base, activation, accumulate: index % 2 === 1 }, tolerance);
          await check(device, bench, { ...base, activation: 'none', accumulate: index % 2 === 0 }, tolerance);
        }
      });
    }
  }
}
