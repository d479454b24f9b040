// The reference of stored weights, against values worked out by hand, and that every kind of random weight is whole.

import { describe, expect, it } from 'vitest';
import type { DType } from '../../offload/port/dtype.js';
import { type Format, type FormatName, formatOf, type PartName } from '../../offload/port/formats.js';
import type { Weight } from '../../offload/port/ops.js';
import { expandReference, roundTo } from './reference-weights.js';
import { buildWeight, canBeCut, fitted, WEIGHT_KINDS } from './weight-builder.js';
import { workbench } from './workbench.js';

type HandPart = readonly [dtype: DType, shape: readonly number[], values: readonly number[]];

interface HandMade {
  readonly name: FormatName;
  readonly shape: readonly [number, number];
  readonly options: Partial<Omit<Format, 'name' | 'type'>>;
  readonly parts: { readonly [Name in PartName]?: HandPart };
  readonly values: readonly number[];
}

const HAND_MADE: readonly HandMade[] = [
  {
    name: 'e4m3', // a short last block each way
    shape: [3, 3],
    options: { rowGroup: 2, inputGroup: 2, product: 'f32' },
    parts: {
      codes: ['e4m3', [3, 3], [1, 2, 3, -4, 0.5, 6, 448, 8, 9]],
      scales: ['f32', [2, 2], [1, 10, 0.5, 100]],
    },
    values: [1, 2, 30, -4, 0.5, 60, 224, 4, 900],
  },
  {
    name: 'int8',
    shape: [1, 2],
    options: { rowGroup: 1, inputGroup: 2, product: 'f32' },
    parts: { codes: ['i8', [1, 2], [-128, 5]], scales: ['f32', [1, 1], [2]], zeros: ['i8', [1, 1], [3]] },
    values: [-262, 4],
  },
  {
    name: 'packed8', // bytes 0x80 + q
    shape: [1, 5],
    options: { inputGroup: 4, product: 'f32' },
    parts: {
      codes: ['i32', [1, 2], [0x7f828180 | 0, 0x00000085]],
      scales: ['f32', [1, 2], [1, 2]],
    },
    values: [0, 1, 2, -1, 10],
  },
  {
    name: 'packed4', // nibbles 8 + q; zero 8 + 1 of row 1 is the second nibble
    shape: [2, 2],
    options: { inputGroup: 2, product: 'f32' },
    parts: {
      codes: ['i32', [2, 1], [0x0000007f, 0x0000001a]],
      scales: ['f32', [2, 1], [1, 4]],
      zeros: ['i32', [1, 1], [0x98]],
    },
    values: [7, -1, 4, -32],
  },
  {
    name: 'fp4', // low nibble first
    shape: [1, 4],
    options: { inputGroup: 2, product: 'f32', globalDivides: true },
    parts: {
      codes: ['u8', [1, 2], [0x7a, 0x1f]],
      scales: ['e4m3', [1, 2], [2, 4]],
      global: ['f32', [1], [0.5]],
    },
    values: [-4, 24, -48, 4],
  },
  {
    name: 'table4', // high nibble first, scales by flat blocks
    shape: [2, 3],
    options: { inputGroup: 4, product: 'f32' },
    parts: {
      codes: ['u8', [3], [0x01, 0x23, 0xf0]],
      scales: ['f32', [2], [1, 10]],
      table: ['f32', [16], Array.from({ length: 16 }, (_, i) => i + 1)],
    },
    values: [1, 2, 3, 4, 160, 10],
  },
  {
    name: 'awq', // nibbles 0 to 7 hold columns 0 2 4 6 1 3 5 7
    shape: [8, 1],
    options: { inputGroup: 1, product: 'f16' },
    parts: {
      codes: ['i32', [1, 1], [0x76543210]],
      scales: ['f16', [1, 8], [1, 1, 1, 1, 1, 1, 1, 1]],
      zeros: ['i32', [1, 1], [0x00000001]],
    },
    values: [-1, 4, 1, 5, 2, 6, 3, 7],
  },
  {
    name: 'gptq', // 4 bits, first version: stored zero 7 is 8
    shape: [2, 2],
    options: { bits: 4, inputGroup: 2, product: 'f16', zeroPlusOne: true },
    parts: {
      codes: ['i32', [1, 2], [0xf8, 0x09]],
      scales: ['f16', [1, 2], [1, 2]],
      zeros: ['i32', [1, 1], [0x77777777]],
    },
    values: [0, 7, 2, -16],
  },
  {
    name: 'gptq', // a field of ones carries into its neighbour, as the subtraction from the whole word did
    shape: [2, 1],
    options: { bits: 4, inputGroup: 1, product: 'f16', zeroPlusOne: true },
    parts: {
      codes: ['i32', [1, 2], [5, 5]],
      scales: ['f16', [1, 2], [1, 1]],
      zeros: ['i32', [1, 1], [0x0000000f]],
    },
    values: [5, 3],
  },
  {
    name: 'gptq', // 3 bits: the eleventh code lies in two words; zeros wrap each by itself
    shape: [1, 12],
    options: { bits: 3, inputGroup: 12, product: 'f16', zeroPlusOne: true },
    parts: {
      codes: ['i32', [2, 1], [0x80000001 | 0, 0b101]],
      scales: ['f16', [1, 1], [1]],
      zeros: ['i32', [1, 1], [7]],
    },
    values: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 2],
  },
];

describe('stored weights by hand', () => {
  it.each(HAND_MADE.map((made, index) => [`${made.name} ${index}`, made] as const))('%s', (_label, made) => {
    const bench = workbench(1, undefined);
    const parts = Object.fromEntries(
      Object.entries(made.parts).map(([part, [dtype, shape, values]]) => [
        part,
        bench.memory.fill(bench.stored(dtype, shape), (i) => values[i] ?? 0),
      ]),
    );
    const format = formatOf(made.name, 'f32', made.options);
    const weight: Weight = { format, shape: made.shape, firstRow: 0, parts };
    expect([...expandReference(weight, bench.memory.bytes)]).toEqual(made.values);
  });

  it('rounds to nearest, ties to even, in every type', () => {
    expect(roundTo('bf16', 1 + 2 ** -8)).toBe(1);
    expect(roundTo('bf16', 1 + 3 * 2 ** -8)).toBe(1 + 2 ** -6);
    expect(roundTo('bf16', -(1 + 2 ** -8 + 2 ** -20))).toBe(-(1 + 2 ** -7));
    expect(roundTo('f16', 65519)).toBe(65504);
    expect(roundTo('f16', 65520)).toBe(Number.POSITIVE_INFINITY);
    expect(roundTo('f16', 2 ** -25)).toBe(0);
    expect(roundTo('f16', 3 * 2 ** -25)).toBe(2 ** -23);
    expect(roundTo('f32', 1 + 2 ** -24)).toBe(1);
  });
});

describe('random weights', () => {
  it.each(WEIGHT_KINDS.map((kind) => [kind.label, kind] as const))('%s', (_label, kind) => {
    for (const [index, shape] of (
      [
        [1, 1],
        [5, 33],
        [37, 130],
        [130, 40],
      ] as const
    ).entries()) {
      const bench = workbench(index, (int) => int(7));
      const firstRow = canBeCut(kind) ? ([0, 3, 8, 5][index] ?? 0) : 0;
      const weight = buildWeight(bench, kind, fitted(kind, shape), { type: 'f16', firstRow });
      const values = expandReference(weight, bench.memory.bytes);
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      expect(values.every(Number.isFinite)).toBe(true);
      expect(largest).toBeLessThan(30);
      if (values.length > 100) expect(largest).toBeGreaterThan(0.2);
    }
  });
});
