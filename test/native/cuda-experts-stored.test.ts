// Experts whose weights are stored in parts on a GPU, in every format: choice by choice, in tiles that expand codes, and slab by slab.

import { describe, expect, it } from 'vitest';
import type { FloatType } from '../../offload/port/dtype.js';
import type { Op, Tensor, Weight } from '../../offload/port/ops.js';
import { denseWeight, weightRows } from '../../offload/port/weights.js';
import { checkOnGpu, type GpuBench, gpuBench, HAS_GPU, runOnGpu } from './cuda-device.js';
import { choices } from './expert-cases.js';
import { expandReference } from './reference-weights.js';
import {
  buildWeight,
  canBeCut,
  fitted,
  WEIGHT_KINDS,
  type WeightKind,
  type WeightOptions,
} from './weight-builder.js';

/**
 * [tokens, experts, experts of each token, outputs, inputs]: few choices; tiles of 16, 32, 64 and 128 of them; part of a tile of
 * columns and several; inputs that end within a group, within a step, and with single values left over.
 */
const SHAPES = [
  [3, 4, 2, 34, 168],
  [2, 3, 1, 9, 1051],
  [10, 2, 1, 264, 160],
  [12, 2, 1, 10, 83],
  [40, 2, 1, 72, 96],
  [60, 1, 1, 40, 192],
  [140, 1, 1, 40, 264],
] as const;

/** As in cuda-experts.test.ts. */
const TOLERANCE: Readonly<Record<FloatType, number>> = { f16: 4e-6, bf16: 2e-5, f32: 1e-5 };

function experts(
  bench: GpuBench,
  kind: WeightKind,
  [count, N, K]: readonly number[],
  options: WeightOptions,
): Weight[] {
  return Array.from({ length: count ?? 0 }, () =>
    buildWeight(bench, kind, fitted(kind, [N ?? 0, K ?? 0]), options),
  );
}

interface Product {
  readonly out: Tensor;
  readonly x: Tensor;
  readonly experts: Tensor;
  readonly weights: readonly Weight[];
}
const expertLinear = (product: Product): Op => ({ op: 'expert_linear', ...product });

describe.skipIf(!HAS_GPU).each(WEIGHT_KINDS)('CUDA: experts in $label', (kind) => {
  it.each(['bf16', 'f16', 'f32'] as const)('are those of float64, expanded to %s', async (type) => {
    for (const [tokens, count, each, outputs, inputs] of SHAPES) {
      for (const awkward of [false, true]) {
        const bench = gpuBench(tokens + inputs, awkward);
        const weights = experts(bench, kind, [count, outputs, inputs], {
          type,
          firstRow: canBeCut(kind) && awkward ? 5 : 0,
        });
        const [N, K] = weights[0]?.shape ?? [0, 0];
        const table = choices(bench, tokens, each, count);
        const x = bench.activation([awkward ? tokens * each : tokens, K]);
        const out = bench.activation([tokens * each, N]);
        await checkOnGpu(bench, expertLinear({ out, x, experts: table, weights }), TOLERANCE[type]);
      }
    }
  });

  it('take inputs and give results of 16 bits', async () => {
    for (const tokens of [4, 70]) {
      const bench = gpuBench(tokens, false);
      const weights = experts(bench, kind, [2, 48, 128], { type: 'bf16' });
      const table = choices(bench, tokens, 1, 2);
      const x = bench.activation([tokens, 128], 1, 'bf16');
      const out = bench.activation([tokens, 48], 1, 'bf16');
      await checkOnGpu(bench, expertLinear({ out, x, experts: table, weights }), TOLERANCE.bf16);
    }
  });

  it.skipIf(!canBeCut(kind))('are rows of larger ones, as gate and up are', async () => {
    for (const tokens of [4, 70]) {
      const bench = gpuBench(tokens, false);
      const both = experts(bench, kind, [3, 2 * 40, 96], { type: 'bf16' });
      const table = choices(bench, tokens, 1, 3);
      for (const first of [0, 40]) {
        const [x, out] = [bench.activation([tokens, 96]), bench.activation([tokens, 40])];
        const weights = both.map((weight) => weightRows(weight, first, 40));
        await checkOnGpu(bench, expertLinear({ out, x, experts: table, weights }), TOLERANCE.bf16);
      }
    }
  });

  /** Tiles multiply in one order whatever weights are made of, so each value must be what it is by definition, to the last bit. */
  it('have exactly the values that they stand for', async () => {
    for (const type of ['bf16', 'f16'] as const) {
      for (const [tokens, inputs, around] of [
        [20, 320, 'f32'],
        [50, 320, 'f32'],
        [120, 320, 'f32'],
        [300, 320, 'f32'],
        // Inputs that end within a stage of a tile.
        [300, 96, type],
        [300, 320, type],
      ] as const) {
        const bench = gpuBench(tokens, false);
        const weights = experts(bench, kind, [2, 136, inputs], { type });
        const [N, K] = weights[0]?.shape ?? [0, 0];
        const dense = weights.map((weight) => {
          const values = expandReference(weight, bench.memory.bytes);
          return denseWeight(
            bench.memory.fill(bench.memory.tensor(type, [N, K]), (i) => values[i] ?? Number.NaN),
          );
        });
        const table = choices(bench, tokens, 1, 2);
        const x = bench.activation([tokens, K], 1, around);
        const [out, like] = [
          bench.activation([tokens, N], 1, around),
          bench.activation([tokens, N], 1, around),
        ];
        await runOnGpu(expertLinear({ out, x, experts: table, weights }), bench.memory);
        await runOnGpu(expertLinear({ out: like, x, experts: table, weights: dense }), bench.memory);
        const what = `${tokens} tokens of ${inputs} inputs in ${around}, ${type}`;
        expect(bench.memory.read(out), what).toEqual(bench.memory.read(like));
      }
    }
  });
});
