// Drawing tokens on the GPU: any mixture of settings against float64 with the same random bits.

import { describe, expect, it } from 'vitest';
import type { SamplingTables } from '../../offload/ops.js';
import { checkOnGpu as check, type GpuBench, gpuBench, HAS_GPU, runOnGpu } from './cuda-device.js';

interface Row {
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly penalty?: number;
  readonly bits?: number;
  readonly history?: readonly number[];
}

function tablesOf(bench: GpuBench, rows: readonly Row[]): SamplingTables {
  const history: number[] = [];
  const draws = rows.map(({ topK = 0, bits = 0, history: own = [] }) => {
    history.push(...own);
    return [topK, bits | 0, history.length - own.length, own.length];
  });
  const settings = rows.flatMap(({ temperature, topP = 1, minP = 0, penalty = 1 }) => [
    temperature,
    topP,
    minP,
    penalty,
  ]);
  return {
    settings: bench.memory.fill(bench.memory.tensor('f32', [rows.length, 4]), (i) => settings[i] ?? 0),
    draws: bench.table(draws),
    history: bench.index(history),
  };
}

describe.skipIf(!HAS_GPU)('CUDA sample', () => {
  it('agrees with the reference in any mixture of settings', async () => {
    for (const columns of [1, 5, 37, 1000, 5000]) {
      const bench = gpuBench(columns);
      const logits = bench.activation([40, columns], 4);
      const rows = Array.from(
        { length: 40 },
        (): Row => ({
          temperature: bench.int(8) === 0 ? 0 : bench.random() * 2 + 0.05,
          topK: bench.int(3) === 0 ? 0 : bench.int(60),
          topP: bench.int(3) === 0 ? 1 : bench.random(),
          minP: bench.int(2) === 0 ? 0 : bench.random() * 0.2,
          penalty: bench.int(2) === 0 ? 1 : 0.5 + bench.random(),
          bits: Math.floor(bench.random() * 2 ** 32),
          history: Array.from({ length: bench.int(20) }, () => bench.int(columns)),
        }),
      );
      const out = bench.index(rows.map(() => -1));
      await check(bench, { op: 'sample', out, logits, tables: tablesOf(bench, rows) }, 0);
      bench.memory.fill(logits, () => bench.int(5)); // coarse values make ties
      await check(bench, { op: 'sample', out, logits, tables: tablesOf(bench, rows) }, 0);
    }
  });

  it('edges: nothing but the likeliest, NaN, infinities', async () => {
    const bench = gpuBench(1);
    const rows: Row[] = [
      { temperature: 1, topP: 0 },
      { temperature: 1, topK: 1, bits: 2 ** 32 - 1 },
      { temperature: 1e-30 },
      { temperature: 0 },
    ];
    const drawn = async (values: readonly number[]): Promise<number[]> => {
      const logits = bench.memory.fill(
        bench.memory.tensor('f32', [rows.length, values.length]),
        (i) => values[i % values.length] ?? 0,
      );
      const out = bench.index(rows.map(() => -1));
      await runOnGpu({ op: 'sample', out, logits, tables: tablesOf(bench, rows) }, bench.memory);
      return [...bench.memory.read(out)];
    };
    expect(await drawn([1, 3, 2, 3])).toEqual([1, 3, 1, 1]);
    expect(await drawn([Number.NaN, -5, Number.NEGATIVE_INFINITY])).toEqual([1, 1, 1, 1]);
    expect(await drawn([0, Number.POSITIVE_INFINITY, 0])).toEqual([1, 1, 1, 1]);
    expect(await drawn([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY])).toEqual([0, 0, 0, 0]);
  });
});
