// Few choices of experts in FP4 with powers of two on a GPU: rows and inputs that fill tiles of an H100's way, and those that do not.

import { describe, expect, it } from 'vitest';
import { ELSEWHERE } from '../../offload/port/host-ops.js';
import type { Op, Tensor, Weight } from '../../offload/port/ops.js';
import { weightRows } from '../../offload/port/weights.js';
import { checkOnGpu, type GpuBench, gpuBench, HAS_GPU, runOnGpu } from './cuda-device.js';
import { choices } from './expert-cases.js';
import { buildWeight, WEIGHT_KINDS } from './weight-builder.js';

/** A share of the largest result: sums are f32, and inputs have 22 bits of the largest of their group. */
const TOLERANCE = 4e-6;

/**
 * [tokens, experts, experts of each token, outputs, inputs]. Tiles are 16 rows, and as many blocks as multiprocessors share them.
 */
const SHAPES = [
  // One choice, one tile, one group; some of a quad's groups.
  [1, 1, 1, 16, 32],
  [1, 4, 4, 48, 96],
  // Rows that fill no tile.
  [1, 4, 4, 33, 96],
  [2, 8, 4, 100, 288],
  // As gpt-oss has them; more tiles than blocks, and so many that each stage of a ring is filled again.
  [1, 4, 4, 48, 2880],
  [4, 16, 4, 1600, 64],
  [16, 1, 1, 16, 160],
  // Each number of quads of a warp, to the most, and beyond.
  [2, 2, 1, 32, 1568],
  [3, 3, 1, 32, 4608],
  [3, 4, 2, 32, 4640],
  [2, 4, 2, 32, 7680],
  [2, 4, 2, 32, 7712],
] as const;

const [kind] = WEIGHT_KINDS.filter(({ label }) => label === 'fp4, e8m0 scales');

function experts(bench: GpuBench, count: number, outputs: number, inputs: number, firstRow = 0): Weight[] {
  if (!kind) throw new Error('no such weights');
  return Array.from({ length: count }, () => buildWeight(bench, kind, [outputs, inputs], { firstRow }));
}

interface Product {
  readonly out: Tensor;
  readonly x: Tensor;
  readonly experts: Tensor;
  readonly weights: readonly Weight[];
}
const expertLinear = (product: Product): Op => ({ op: 'expert_linear', ...product });

describe.skipIf(!HAS_GPU)('CUDA: few choices of experts in FP4', () => {
  it.each(SHAPES)(
    '%i tokens, %i experts, %i each, [%i, %i]',
    async (tokens, count, each, outputs, inputs) => {
      for (const type of ['f32', 'bf16'] as const) {
        for (const own of [false, true]) {
          const bench = gpuBench(tokens + inputs, false);
          const weights = experts(bench, count, outputs, inputs);
          const x = bench.activation([own ? tokens * each : tokens, inputs], 1, type);
          const out = bench.activation([tokens * each, outputs], 1, own ? 'f32' : type);
          const table = choices(bench, tokens, each, count);
          await checkOnGpu(bench, expertLinear({ out, x, experts: table, weights }), TOLERANCE);
        }
      }
    },
  );

  it('are rows of larger ones', async () => {
    const bench = gpuBench(5, false);
    const both = experts(bench, 4, 96, 96, 16);
    const table = choices(bench, 1, 4, 4);
    // Rows from 8 on have scales that begin at no multiple of 16 bytes.
    for (const [first, count] of [
      [0, 48],
      [48, 48],
      [8, 32],
    ] as const) {
      const [x, out] = [bench.activation([1, 96]), bench.activation([4, count])];
      const weights = both.map((weight) => weightRows(weight, first, count));
      await checkOnGpu(bench, expertLinear({ out, x, experts: table, weights }), TOLERANCE);
    }
  });

  it('take inputs of any size, and those that are no numbers', async () => {
    for (const type of ['f32', 'bf16'] as const) {
      for (const odd of [1e30, 3e38, 1e5, 1e-5, 1e-30, Number.POSITIVE_INFINITY, Number.NaN]) {
        const bench = gpuBench(7, false);
        const weights = experts(bench, 4, 48, 160);
        const table = choices(bench, 1, 4, 4);
        const out = bench.activation([4, 48]);
        const x = bench.memory.fill(bench.memory.tensor(type, [4, 160]), (i) =>
          // All of one choice; one value of another; none of the rest.
          i < 160 ? bench.normal() * (odd < 1e38 ? odd : 1) : i === 160 + 70 ? odd / 64 : bench.normal(),
        );
        await checkOnGpu(bench, expertLinear({ out, x, experts: table, weights }), TOLERANCE);
      }
    }
  });

  it('leave what is computed elsewhere, and compute the rest as ever', async () => {
    for (const outputs of [320, 40]) {
      const bench = gpuBench(outputs, false);
      const weights = experts(bench, 8, outputs, 256);
      const all = choices(bench, 2, 4, 8);
      const chosen = [...bench.memory.read(all)];
      const away = [1, 4, 5, 7];
      const some = bench.table(
        [0, 1].map((t) =>
          [0, 1, 2, 3].map((j) => (away.includes(4 * t + j) ? ELSEWHERE : (chosen[4 * t + j] ?? 0))),
        ),
      );
      const x = bench.activation([2, 256]);
      const [whole, out] = [bench.activation([8, outputs]), bench.activation([8, outputs])];
      const before = [...bench.memory.read(out)];
      await runOnGpu(expertLinear({ out: whole, x, experts: all, weights }), bench.memory);
      await runOnGpu(expertLinear({ out, x, experts: some, weights }), bench.memory);
      const computed = [...bench.memory.read(whole)];
      const expected = before.map((value, i) =>
        away.includes(Math.floor(i / outputs)) ? value : computed[i],
      );
      expect([...bench.memory.read(out)]).toEqual(expected);
      expect(computed).not.toEqual(before);
    }
  });
});
