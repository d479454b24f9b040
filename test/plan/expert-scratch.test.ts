// What experts whose weights are stored in parts take of a GPU's memory beside them: bounded, and never more than a plan counts.

import { expect, it } from 'vitest';
import { encodeOp, joinEncoded } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/port/native.js';
import type { Op } from '../../offload/port/ops.js';
import { MiB } from '../../offload/units.js';
import { buildWeight, fitted, WEIGHT_KINDS } from '../native/weight-builder.js';
import { rowsOf, workbench } from '../native/workbench.js';

const SLAB_BYTES = 64 * MiB;

it.each(WEIGHT_KINDS)('of $label', (kind) => {
  const bench = workbench(3, undefined);
  const [count, each, most] = [5, 2, 400];
  const weights = Array.from({ length: count }, () => buildWeight(bench, kind, fitted(kind, [40, 96]), {}));
  const [N, K] = weights[0]?.shape ?? [0, 0];
  const { memory } = bench;
  const [out, x] = [memory.tensor('f32', [most * each, N]), memory.tensor('f32', [most, K])];
  const experts = memory.tensor('i32', [most, each]);
  const op = (tokens: number): Op => ({
    op: 'expert_linear',
    out: rowsOf(out, 0, tokens * each),
    x: rowsOf(x, 0, tokens),
    experts: rowsOf(experts, 0, tokens),
    weights,
  });
  const bound = native().cudaScratchBytes(joinEncoded([encodeOp(op(1))]), { rows: most, contextTokens: 1 });
  const taken = Array.from({ length: most }, (_, i) =>
    native().cudaScratchBytes(joinEncoded([encodeOp(op(i + 1))])),
  );
  for (const use of ['inputs', 'rests', 'choices', 'weights'] as const) {
    expect(Math.max(...taken.map((bytes) => bytes[use])), use).toBe(bound[use]);
  }
  // Tiles expand these themselves; of the others all experts fit.
  const expanded = /^(e4m3|int8|packed8|packed4|fp4)$/.test(kind.name) && !kind.isScattered;
  expect(bound.weights).toBe(expanded ? 0 : count * N * K * 2);
});

it('is bounded where an expert is larger than a slab', () => {
  const bench = workbench(3, undefined);
  const kind = WEIGHT_KINDS.find(({ name }) => name === 'gptq');
  if (!kind) throw new Error('no kind');
  const small = buildWeight(bench, kind, [64, 64], {});
  const [N, K] = [14336, 4096];
  const words = bench.memory.tensor('i32', [0, N]);
  const weight = {
    ...small,
    shape: [N, K] as const,
    parts: {
      codes: { ...words, shape: [K / 8, N] },
      scales: { ...words, dtype: 'f16', shape: [K / 64, N] },
      zeros: { ...words, shape: [K / 64, N / 8], strides: [N / 8, 1] },
    },
  } as const;
  const [out, x] = [bench.memory.tensor('f32', [0, N]), bench.memory.tensor('f32', [0, K])];
  const op: Op = {
    op: 'expert_linear',
    out: { ...out, shape: [2, N] },
    x: { ...x, shape: [1, K] },
    experts: bench.memory.tensor('i32', [1, 2]),
    weights: [weight, weight],
  };
  const { weights } = native().cudaScratchBytes(joinEncoded([encodeOp(op)]), {
    rows: 4096,
    contextTokens: 1,
  });
  expect(weights).toBe(SLAB_BYTES);
});
