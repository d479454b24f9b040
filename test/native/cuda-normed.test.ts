// Norms that products of a few tokens make themselves, on a GPU: the same bits as one operation after the other, whatever else
// reads what the norm gives, or writes what it takes.

import { describe, it } from 'vitest';
import { present } from '../../offload/errors.js';
import type { FloatType } from '../../offload/port/dtype.js';
import { formatOf } from '../../offload/port/formats.js';
import type { Op, Tensor, Weight } from '../../offload/port/ops.js';
import { expectSameTogether, type GpuBench, gpuBench, HAS_GPU } from './cuda-device.js';
import { buildWeight, WEIGHT_KINDS } from './weight-builder.js';

/** Tokens and length of rows: one and two, as many as norms of their own take, short last units, all that threads hold and more. */
const ROWS = [
  [1, 4096],
  [2, 1120],
  [1, 544],
  [2, 8192],
  [1, 8320],
  [3, 1024],
  [1, 256],
] as const;
const KINDS = [
  'dense',
  'packed4, groups of 64',
  'packed8, groups of 32',
  'e4m3, blocks of 128 × 128',
  'e4m3, a scale per row',
  'int8, a scale per row',
  'packed4, groups of 64 and zeros',
];

describe.skipIf(!HAS_GPU)('norms inside products on CUDA', () => {
  for (const half of ['bf16', 'f16'] as const) {
    it.each(KINDS)(`%s times ${half}`, async (label) => {
      for (const [index, rows] of ROWS.entries())
        await compare(gpuBench(index, false), { label, half, index, rows });
    });
  }
});

interface Case {
  readonly label: string;
  readonly half: FloatType;
  readonly index: number;
  readonly rows: readonly [number, number];
}

function compare(bench: GpuBench, one: Case): Promise<void> {
  return expectSameTogether(bench, chainOf(bench, one), `${one.label}, rows of ${one.rows}`);
}

/** A norm, products of it, and operations that must not see half of one: they write what it takes, or read what it gives. */
function chainOf(bench: GpuBench, { label, half, index, rows: [tokens, length] }: Case): readonly Op[] {
  const hidden = bench.activation([tokens, length], 4);
  const normed = bench.activation([tokens, length], 1, half);
  const vector = (present: boolean) => (present ? bench.vector(half, length) : null);
  const norm = (x: Tensor, out: Tensor): Op =>
    index % 2 === 0
      ? {
          op: 'layer_norm',
          out,
          x,
          weight: bench.vector(half, length),
          bias: vector(index % 4 === 0),
          eps: 1e-5,
        }
      : { op: 'rms_norm', out, x, weight: bench.vector(half, length), eps: 1e-6, weightOffset: index % 3 };
  const product = (x: Tensor, out: Tensor, accumulate = false): Op => ({
    op: 'linear',
    out,
    x,
    weight: weightOf(bench, label, half, [present(out.shape[1], 'outputs'), length]),
    bias: bench.weight(half, [present(out.shape[1], 'outputs')]),
    activation: 'none',
    accumulate,
  });
  const results = [48, 16, 70, 33].map((outputs) => bench.activation([tokens, outputs], 1, half));
  const part: Tensor = { ...hidden, shape: [tokens, 32] };
  const other = bench.activation([tokens, length], 1, half);
  return [
    norm(hidden, normed),
    ...results.map((out) => product(normed, out)),
    norm(hidden, normed),
    product(normed, part, true),
    norm(hidden, other),
    product(normed, bench.activation([tokens, 24])),
    norm(hidden, normed),
    { op: 'add', out: other, a: other, b: normed },
    product(other, bench.activation([tokens, 24])),
  ];
}

function weightOf(bench: GpuBench, label: string, half: FloatType, shape: readonly [number, number]): Weight {
  if (label === 'dense')
    return {
      format: formatOf('dense', half),
      shape,
      firstRow: 0,
      parts: { codes: bench.weight(half, shape, 0.1) },
    };
  const kind = present(
    WEIGHT_KINDS.find((other) => other.label === label),
    label,
  );
  return buildWeight(bench, kind, shape, { type: half });
}
