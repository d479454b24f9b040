// Cases of mixtures of experts for any device, against float64: grouped products and their sum.

import { expect, it } from 'vitest';
import type { Tensor } from '../../offload/port/ops.js';
import { denseWeight } from '../../offload/port/weights.js';
import { check as checkOn, type KernelDevice, WEIGHT_TYPES, type Workbench } from './workbench.js';

/** [tokens, experts, experts of each token, outputs, inputs] */
const MULTIPLIED = [
  [0, 2, 1, 4, 4],
  [1, 1, 1, 1, 1],
  [1, 8, 2, 33, 700],
  [4, 4, 2, 40, 65],
  [11, 9, 3, 37, 520],
  [150, 3, 2, 5, 70],
  [300, 2, 2, 34, 19],
  [9, 37, 8, 22, 70],
  [40, 128, 8, 22, 70],
] as const;

/** [tokens, experts of each token, length] */
const COMBINED = [
  [0, 2, 5],
  [1, 1, 7],
  [6, 2, 33],
  [5, 2, 22],
  [9, 8, 22],
  [40, 8, 22],
  [3, 8, 130],
] as const;

/** Distinct experts per token, drawn from the first `used` of them. */
export function choices(bench: Workbench, tokens: number, each: number, used: number): Tensor {
  const rows = Array.from({ length: tokens }, () => {
    const order = Array.from({ length: used }, (_, e) => e).sort(() => bench.random() - 0.5);
    return order.slice(0, each);
  });
  return bench.table(rows);
}

export function expertCases(device: KernelDevice): void {
  const check = (bench: Workbench, op: Parameters<typeof checkOn>[2], tolerance?: number) =>
    checkOn(device, bench, op, tolerance);

  it.each(WEIGHT_TYPES)('expert_linear with %s weights', async (dtype) => {
    device.use();
    for (const [tokens, experts, each, outputs, inputs] of MULTIPLIED) {
      const bench = device.workbench(tokens + experts);
      const weights = bench.weights(dtype, experts, [outputs, inputs]);
      const chosen = choices(bench, tokens, each, experts);
      const table = tokens === 0 ? { ...chosen, shape: [0, each] } : chosen;
      const out = bench.activation([tokens * each, outputs]);
      const shared = device.productInput(bench, dtype, [tokens, inputs]);
      const own = device.productInput(bench, dtype, [tokens * each, inputs]);
      await check(bench, {
        op: 'expert_linear',
        out,
        x: shared,
        experts: table,
        weights: weights.map((weight) => denseWeight(weight)),
      });
      await check(bench, {
        op: 'expert_linear',
        out,
        x: own,
        experts: table,
        weights: weights.map((weight) => denseWeight(weight)),
      });
    }
  });

  it.each(WEIGHT_TYPES)('expert_linear with %s weights stored [inputs, outputs]', async (dtype) => {
    device.use();
    for (const [tokens, experts, each, outputs, inputs] of MULTIPLIED) {
      const bench = device.workbench(tokens + inputs);
      const weights = bench.weights(dtype, experts, [inputs, outputs]);
      const chosen = choices(bench, tokens, each, experts);
      await check(bench, {
        op: 'expert_linear',
        out: bench.activation([tokens * each, outputs]),
        x: device.productInput(bench, dtype, [tokens, inputs]),
        experts: tokens === 0 ? { ...chosen, shape: [0, each] } : chosen,
        weights: weights.map((weight) => denseWeight(weight, true)),
      });
    }
  });

  it('expert_linear reads no expert that was not chosen', async () => {
    device.use();
    const bench = device.workbench(2);
    const weights = bench.weights('f32', 4, [20, 30]);
    const experts = bench.table([
      [3, 1],
      [1, 3],
    ]);
    const x = bench.activation([2, 30]);
    const out = bench.activation([4, 20]);
    const op = {
      op: 'expert_linear',
      out,
      x,
      experts,
      weights: weights.map((weight) => denseWeight(weight)),
    } as const;
    await device.run(op, bench);
    const clean = bench.memory.read(out);
    // Freed memory, which native code would refuse to resolve, cannot be told apart here; NaN can.
    for (const unused of [0, 2]) {
      const weight = weights[unused];
      if (weight) bench.memory.fill(weight, () => Number.NaN);
    }
    await device.run(op, bench);
    expect(bench.memory.read(out)).toEqual(clean);
  });

  it.each(WEIGHT_TYPES)('expert_bias of %s', async (dtype) => {
    device.use();
    for (const [tokens, experts, each, length] of [
      [1, 1, 1, 1],
      [6, 4, 2, 33],
      [40, 9, 3, 130],
    ] as const) {
      const bench = device.workbench(length);
      const [x, bias] = [bench.activation([tokens * each, length]), bench.weight(dtype, [experts, length])];
      await check(
        bench,
        { op: 'expert_bias', x, experts: choices(bench, tokens, each, experts), bias },
        1e-6,
      );
    }
  });

  it('combine', async () => {
    device.use();
    for (const [tokens, each, length] of COMBINED) {
      const bench = device.workbench(length);
      const x = bench.activation([tokens, length]);
      const y = bench.activation([tokens * each, length]);
      const weights = bench.activation([tokens, each]);
      await check(bench, { op: 'combine', x, y, weights, accumulate: true }, 1e-6);
      await check(bench, { op: 'combine', x, y, weights: null, accumulate: true }, 1e-6);
      bench.memory.fill(x, () => Number.NaN);
      await check(bench, { op: 'combine', x, y, weights, accumulate: false }, 1e-6);
      await check(bench, { op: 'scale_rows', x: y, weights }, 1e-6);
    }
  });
}
