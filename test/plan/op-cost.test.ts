// Costs of single operations: interpolation of products, experts that are touched, positions that attention sees.

import { describe, expect, it } from 'vitest';
import { type ComputeRates, opMs, secondsPerWeight, storedBytes } from '../../offload/plan/op-cost.js';
import { formatOf } from '../../offload/port/formats.js';
import type { Op, Weight } from '../../offload/port/ops.js';
import { tensor } from '../../offload/port/tensor.js';
import { denseWeight } from '../../offload/port/weights.js';

const MEMORY = { id: 1, sizeBytes: 2 ** 40 };
const floats = (shape: readonly number[]) => tensor(MEMORY, 0, 'f32', shape);
const ints = (shape: readonly number[]) => tensor(MEMORY, 0, 'i32', shape);

const COMPUTE: ComputeRates = {
  memoryBytesPerSecond: 1e9,
  peakFlopsPerSecond: 1e12,
  products: [
    {
      weightType: 'f32',
      points: [
        { tokens: 1, flopsPerSecond: 2e9 },
        { tokens: 4, flopsPerSecond: 8e9 },
        { tokens: 16, flopsPerSecond: 16e9 },
      ],
    },
  ],
  attentionBytesPerSecond: 1e9,
  attentionFlopsPerSecond: 1e9,
  elementwiseBytesPerSecond: 1e9,
  launchMs: 0,
  passMs: 0,
  inHalves: true,
};

function linear(tokens: number): Op {
  const [x, out] = [floats([tokens, 1000]), floats([tokens, 1000])];
  const plain = { bias: null, activation: 'none', accumulate: false } as const;
  return { op: 'linear', out, x, weight: denseWeight(floats([1000, 1000])), ...plain };
}

function attention(tokens: number, windowTokens: number): Op {
  const cache = floats([64, 2, 16, 10]);
  const tables = {
    sequences: ints([1, 4]),
    pages: ints([64]),
    slots: ints([tokens]),
    positions: ints([tokens]),
    maxContextTokens: 1024,
  };
  const q = floats([tokens, 4, 10]);
  const both = {
    keys: cache,
    values: { ...cache, offsetBytes: 1 << 20 },
    keyScales: null,
    valueScales: null,
  };
  return { op: 'attention', out: q, q, ...both, tables, score: { scale: 1, windowTokens } };
}

describe('products', () => {
  const rates = COMPUTE.products[0] ?? { weightType: 'f32', points: [] };

  it('take the measured time at a point, and lie between two of them', () => {
    expect(secondsPerWeight(rates, 1)).toBeCloseTo(1e-9);
    expect(secondsPerWeight(rates, 4)).toBeCloseTo(1e-9);
    expect(secondsPerWeight(rates, 16)).toBeCloseTo(2e-9);
    expect(secondsPerWeight(rates, 10)).toBeCloseTo(1.5e-9);
  });

  it('go on at the last rate', () => {
    expect(secondsPerWeight(rates, 64)).toBeCloseTo(8e-9);
  });

  it('of a layer take weights times that', () => {
    expect(opMs(linear(16), [], COMPUTE)).toBeCloseTo(2);
  });

  it('of experts read only those that are touched', () => {
    const weights = Array.from({ length: 8 }, () => denseWeight(floats([1000, 1000])));
    const experts = (tokens: number): Op => {
      const [x, out] = [floats([tokens, 1000]), floats([tokens * 2, 1000])];
      return { op: 'expert_linear', out, x, experts: ints([tokens, 2]), weights };
    };
    // Two choices among eight: 8 · (1 − (7/8)²) of them are expected to differ.
    expect(opMs(experts(1), [], COMPUTE)).toBeCloseTo(8 * (1 - (7 / 8) ** 2));
    expect(opMs(experts(16), [], COMPUTE)).toBeGreaterThan(7.5);
  });

  it('of f32 inputs with 16-bit weights are two where rates are of 16-bit inputs', () => {
    const weight = denseWeight(tensor(MEMORY, 0, 'bf16', [1000, 1000]));
    const product = { ...linear(32), weight } as Op;
    expect(opMs(product, [], COMPUTE)).toBeCloseTo(8);
    expect(opMs(product, [], { ...COMPUTE, inHalves: false })).toBeCloseTo(4);
    expect(opMs(linear(32), [], COMPUTE)).toBeCloseTo(4);
  });
});

describe('products with stored weights', () => {
  /** bf16 as measured: one token waits for 2 bytes a weight; 64 tokens take ten times that. */
  const rates: ComputeRates = {
    ...COMPUTE,
    products: [
      {
        weightType: 'bf16',
        points: [
          { tokens: 1, flopsPerSecond: 1e9 },
          { tokens: 8, flopsPerSecond: 8e9 },
          { tokens: 64, flopsPerSecond: 6.4e9 },
        ],
      },
    ],
    inHalves: false,
  };
  const N = 512;
  const K = 1024;
  const codes = tensor(MEMORY, 0, 'i32', [N, K / 8]);
  const scales = tensor(MEMORY, 0, 'bf16', [N, K / 64]);
  const int4: Weight = {
    format: formatOf('packed4', 'bf16', { inputGroup: 64 }),
    shape: [N, K],
    firstRow: 0,
    parts: { codes, scales },
  };
  const product = (tokens: number, weight: Weight): Op => {
    const plain = { bias: null, activation: 'none', accumulate: false } as const;
    return { op: 'linear', out: floats([tokens, N]), x: floats([tokens, K]), weight, ...plain };
  };
  const plain = denseWeight(tensor(MEMORY, 0, 'bf16', [N, K]));
  const ms = (tokens: number, weight: Weight) => opMs(product(tokens, weight), [], rates);

  it('of few tokens wait for the stored bytes', () => {
    expect(storedBytes(int4)).toBe((N * K * 17) / 32);
    expect(ms(1, int4) / ms(1, plain)).toBeCloseTo(17 / 64);
    expect(ms(8, int4) / ms(8, plain)).toBeCloseTo(17 / 64);
  });

  it('of many tokens take their arithmetic, and making values of the weights', () => {
    const expanding = ((2 * N * K * 2) / rates.memoryBytesPerSecond) * 1e3;
    expect(ms(64, int4)).toBeCloseTo(Math.sqrt(ms(64, plain) ** 2 - ms(1, plain) ** 2) + expanding);
    expect(ms(64, int4)).toBeGreaterThan(ms(64, plain));
  });

  it('are never cheaper for more tokens', () => {
    const times = Array.from({ length: 128 }, (_, tokens) => ms(tokens + 1, int4));
    expect(times).toEqual([...times].sort((a, b) => a - b));
  });
});

describe('attention', () => {
  it('of one token reads the cache up to it', () => {
    const bytes = 100 * 2 * 10 * 2 * 4;
    expect(opMs(attention(1, 0), [{ tokens: 1, startPosition: 99 }], COMPUTE)).toBeCloseTo(bytes / 1e6);
  });

  it('reads codes and scales where keys and values are stored so', () => {
    const op = attention(1, 0) as Extract<Op, { op: 'attention' }>;
    const [codes, scales] = [
      tensor(MEMORY, 0, 'i8', [64, 2, 16, 10]),
      tensor(MEMORY, 0, 'bf16', [64, 2, 16, 1]),
    ];
    const values = { ...codes, offsetBytes: 1 << 20 };
    const coded = { ...op, keys: codes, values, keyScales: scales, valueScales: scales };
    const bytes = 100 * 2 * 2 * (10 + 2);
    const rates = { ...COMPUTE, attentionFlopsPerSecond: 1e15 };
    expect(opMs(coded, [{ tokens: 1, startPosition: 99 }], rates)).toBeCloseTo(bytes / 1e6, 6);
    // Values that lie in keys are read with them.
    const inKeys = { ...coded, values: codes, valueScales: scales };
    expect(opMs(inKeys, [{ tokens: 1, startPosition: 99 }], rates)).toBeCloseTo(bytes / 2e6, 6);
  });

  it('of chunks reads what a token has of its own one', () => {
    const chunked = (startPosition: number, tokens: number) => {
      const op = attention(tokens, 0) as Extract<Op, { op: 'attention' }>;
      return opMs({ ...op, score: { scale: 1, chunkTokens: 40 } }, [{ tokens, startPosition }], COMPUTE);
    };
    const plain = (startPosition: number, tokens: number) =>
      opMs(attention(tokens, 0), [{ tokens, startPosition }], COMPUTE);
    expect(chunked(99, 1)).toBeCloseTo(plain(19, 1), 9);
    expect(chunked(30, 60)).toBeCloseTo(plain(30, 10) + plain(0, 40) + plain(0, 10), 9);
  });

  it('of a prompt computes each pair of positions once', () => {
    const pairs = (64 * 65) / 2;
    const ms = opMs(attention(64, 0), [{ tokens: 64, startPosition: 0 }], COMPUTE);
    expect(ms).toBeCloseTo((4 * pairs * 4 * 10) / 1e6);
  });

  it('sees no further than its window', () => {
    const far = opMs(attention(1, 16), [{ tokens: 1, startPosition: 999 }], COMPUTE);
    const near = opMs(attention(1, 0), [{ tokens: 1, startPosition: 15 }], COMPUTE);
    expect(far).toBeCloseTo(near);
  });
});
