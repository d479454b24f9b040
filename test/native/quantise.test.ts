// Values to codes and scales: what is lost is what a reader of the codes finds, and no more than needs be.

import { afterAll, describe, expect, it } from 'vitest';
import { native } from '../../offload/port/native.js';
import type { QuantiseJob, QuantiseLoss } from '../../offload/port/native-quantise.js';
import { readFloat, roundFloat, writeFloat } from '../helpers/packed-store.js';
import { randomFrom } from '../helpers/random.js';
import { fromE4M3, toE4M3, toEven } from './short-floats.js';

const STORED = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const;
type FloatType = keyof typeof STORED;
const INSTRUCTION_SETS = native().instructionSets();

afterAll(() => {
  native().configureCpu({ threads: 0 });
});

interface Made {
  readonly loss: QuantiseLoss;
  readonly codes: Float64Array;
  readonly scales: Float64Array;
  /** Bytes behind what was to be written. */
  readonly untouched: boolean;
}

const GUARD = 64;

interface Case {
  readonly to: QuantiseJob['to'];
  readonly dtype: FloatType;
  readonly scaleDtype: FloatType;
  readonly rows: number;
  readonly inputs: number;
  readonly group: number;
}

function rowBytesOf({ to, inputs }: Case): number {
  if (to === 'int4') return 4 * Math.ceil(inputs / 8);
  return to === 'int8' ? 4 * Math.ceil(inputs / 4) : inputs;
}

/** Lays the values at an odd address and reads back what was made of them. */
async function quantise(one: Case, values: Float64Array): Promise<Made> {
  const { dtype, scaleDtype, rows, inputs, group, to } = one;
  const groups = Math.ceil(inputs / group);
  const valueBytes = dtype === 'f32' ? 4 : 2;
  const scaleBytes = rows * groups * (scaleDtype === 'f32' ? 4 : 2);
  const codeBytes = rows * rowBytesOf(one);
  const memoryOf = (bytes: number) => new (native().NativeMemory)(bytes, false);
  const [source, codes, scales] = [
    memoryOf(values.length * valueBytes + 7),
    memoryOf(codeBytes + GUARD),
    memoryOf(scaleBytes + GUARD),
  ];
  const sourceBytes = Buffer.from(source.view(0, source.sizeBytes));
  const codeBuffer = Buffer.from(codes.view(0, codes.sizeBytes));
  const scaleBuffer = Buffer.from(scales.view(0, scales.sizeBytes));
  codeBuffer.fill(0xa5);
  scaleBuffer.fill(0xa5);
  const unaligned = sourceBytes.subarray(7);
  values.forEach((value, index) => {
    writeFloat(STORED[dtype], unaligned, index, value);
  });
  const loss = await native().quantise({
    ...one,
    values: { memory: source.id, offsetBytes: 7 },
    codes: { memory: codes.id, offsetBytes: 0 },
    scales: { memory: scales.id, offsetBytes: 0 },
  });
  const codeAt = (row: number, input: number): number => {
    const start = row * rowBytesOf(one);
    if (to === 'e4m3') return fromE4M3(codeBuffer.readUInt8(start + input));
    if (to === 'int8') return codeBuffer.readUInt8(start + input) - 128;
    return ((codeBuffer.readUInt8(start + (input >> 1)) >> (4 * (input & 1))) & 15) - 8;
  };
  return {
    loss,
    codes: Float64Array.from({ length: rows * inputs }, (_, i) => codeAt(Math.floor(i / inputs), i % inputs)),
    scales: Float64Array.from({ length: rows * groups }, (_, i) =>
      readFloat(STORED[scaleDtype], scaleBuffer, i),
    ),
    untouched:
      codeBuffer.subarray(codeBytes).every((byte) => byte === 0xa5) &&
      scaleBuffer.subarray(scaleBytes).every((byte) => byte === 0xa5),
  };
}

/** Nearly normal, some of them far out. */
function randomValues(count: number, dtype: FloatType, seed: number): Float64Array {
  const random = randomFrom(seed);
  return Float64Array.from({ length: count }, () => {
    const value = (random() + random() + random() + random() - 2) * 0.03 * (random() < 0.01 ? 6 : 1);
    return roundFloat(STORED[dtype], value);
  });
}

const SHAPES: readonly (readonly [rows: number, inputs: number, group: number])[] = [
  [3, 64, 64],
  [5, 192, 64],
  [2, 200, 64],
  [4, 33, 16],
  [1, 7, 7],
  [7, 1, 1],
  [3, 130, 130],
  [2, 1000, 1000],
];
const TYPES: readonly FloatType[] = ['bf16', 'f16', 'f32'];
const TO: readonly QuantiseJob['to'][] = ['int4', 'int8', 'e4m3'];

const CASES = TO.flatMap((to) =>
  TYPES.flatMap((dtype) =>
    SHAPES.map(([rows, inputs, group]): Case => {
      const scaleDtype = group === inputs ? 'f32' : dtype;
      return { to, dtype, scaleDtype, rows, inputs, group };
    }),
  ),
);
const LIMITS = { int4: [-8, 7], int8: [-128, 127] } as const;

/** The nearest code. */
function nearest(to: QuantiseJob['to'], value: number): number {
  if (to === 'e4m3') return fromE4M3(toE4M3(value));
  const [low, high] = LIMITS[to];
  return Math.min(high, Math.max(low, toEven(value)));
}

describe.each(INSTRUCTION_SETS)('%s', (isa) => {
  it('takes the nearest code of the scale as it is stored, and tells what is lost', async () => {
    native().configureCpu({ threads: 2, isa });
    for (const [seed, one] of CASES.entries()) {
      const { dtype, rows, inputs, group, to } = one;
      const name = JSON.stringify(one);
      const values = randomValues(rows * inputs, dtype, seed);
      const { codes, scales, loss, untouched } = await quantise(one, values);
      expect([name, untouched]).toEqual([name, true]);
      const groups = Math.ceil(inputs / group);
      let [squares, lostSquares, largestLoss] = [0, 0, 0];
      values.forEach((value, i) => {
        const [row, input] = [Math.floor(i / inputs), i % inputs];
        const scale = scales[row * groups + Math.floor(input / group)] ?? 0;
        const code = codes[i] ?? Number.NaN;
        // Where two codes are equally near but for the rounding of a quotient, either will do.
        const distance =
          Math.abs(value / scale - code) - Math.abs(value / scale - nearest(to, value / scale));
        expect([name, i, distance < 1e-4 * Math.max(1, Math.abs(code))]).toEqual([name, i, true]);
        const lost = Math.abs(value - roundFloat(STORED[dtype], Math.fround(code * scale)));
        squares += value ** 2;
        lostSquares += lost ** 2;
        largestLoss = Math.max(largestLoss, lost);
      });
      expect(loss.notFinite).toBe(-1);
      expect(loss.squares / squares).toBeCloseTo(1, 4);
      if (lostSquares === 0) expect(loss.lostSquares).toBe(0);
      else expect(loss.lostSquares / lostSquares).toBeCloseTo(1, 3);
      expect(loss.largestLoss).toBeCloseTo(largestLoss, 6);
    }
  });

  it('chooses scales of four bits that lose no more than the largest value would', async () => {
    native().configureCpu({ threads: 2, isa });
    const one = { to: 'int4', dtype: 'bf16', scaleDtype: 'bf16', rows: 40, inputs: 512, group: 64 } as const;
    const values = randomValues(one.rows * one.inputs, one.dtype, 7);
    const { loss } = await quantise(one, values);
    let plain = 0;
    for (let first = 0; first < values.length; first += one.group) {
      const group = values.subarray(first, first + one.group);
      const scale = roundFloat('BF16', Math.max(...group.map(Math.abs)) / 7);
      for (const value of group) plain += (value - scale * nearest('int4', value / scale)) ** 2;
    }
    expect(loss.lostSquares).toBeLessThan(0.9 * plain);
  });

  it('names the first value that is no finite number', async () => {
    native().configureCpu({ threads: 2, isa });
    for (const dtype of TYPES) {
      for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        const one: Case = { to: 'int4', dtype, scaleDtype: dtype, rows: 9, inputs: 70, group: 64 };
        const values = randomValues(one.rows * one.inputs, dtype, 3);
        const memory = new (native().NativeMemory)(values.length * 4, false);
        const bytes = Buffer.from(memory.view(0, memory.sizeBytes));
        values.forEach((value, index) => {
          writeFloat(STORED[dtype], bytes, index, value);
        });
        for (const at of [500, 333]) writeNotFinite(dtype, bytes, at, bad);
        const room = new (native().NativeMemory)(4096, false);
        const place = { memory: room.id, offsetBytes: 0 };
        const loss = await native().quantise({
          ...one,
          values: { memory: memory.id, offsetBytes: 0 },
          codes: place,
          scales: { ...place, offsetBytes: 2048 },
        });
        expect(loss.notFinite).toBe(333);
      }
    }
  });

  it('makes usable scales of zeros, of tiny and of huge values', async () => {
    native().configureCpu({ threads: 2, isa });
    const largest = { f32: 3e38, bf16: 3e38, f16: 65504 } as const;
    const least = { f32: 1e-44, bf16: 1e-39, f16: 2 ** -24 } as const;
    for (const to of TO) {
      for (const dtype of TYPES) {
        for (const value of [0, largest[dtype], least[dtype]]) {
          const one: Case = { to, dtype, scaleDtype: dtype, rows: 2, inputs: 64, group: 64 };
          const values = new Float64Array(128).fill(roundFloat(STORED[dtype], value));
          const { scales, codes, loss } = await quantise(one, values);
          expect([to, dtype, value, scales.every((scale) => scale > 0 && Number.isFinite(scale))]).toEqual([
            to,
            dtype,
            value,
            true,
          ]);
          expect(codes.every(Number.isFinite)).toBe(true);
          const made = (codes[0] ?? 0) * (scales[0] ?? 0);
          if (value === largest[dtype]) expect(made / value).toBeCloseTo(1, 1);
          if (value === 0) expect([made, loss.lostSquares]).toEqual([0, 0]);
        }
      }
    }
  });
});

function writeNotFinite(dtype: FloatType, bytes: Buffer, index: number, value: number): void {
  const word = Buffer.alloc(4);
  word.writeFloatLE(value);
  if (dtype === 'f32') word.copy(bytes, 4 * index);
  else if (dtype === 'bf16') word.copy(bytes, 2 * index, 2, 4);
  else bytes.writeUInt16LE(Number.isNaN(value) ? 0x7e00 : value > 0 ? 0x7c00 : 0xfc00, 2 * index);
}

describe('a job', () => {
  const memory = new (native().NativeMemory)(4096, false);
  const place = { memory: memory.id, offsetBytes: 0 };
  const job: QuantiseJob = {
    to: 'int4',
    dtype: 'bf16',
    scaleDtype: 'bf16',
    rows: 4,
    inputs: 64,
    group: 64,
    values: place,
    codes: { ...place, offsetBytes: 1024 },
    scales: { ...place, offsetBytes: 2048 },
  };

  it.each([
    ['values beyond the memory', { values: { ...place, offsetBytes: 3800 } }],
    ['codes beyond the memory', { codes: { ...place, offsetBytes: 4090 } }],
    ['scales beyond the memory', { scales: { ...place, offsetBytes: 4090 } }],
    ['a memory that is not there', { values: { memory: 1e6, offsetBytes: 0 } }],
    ['no rows', { rows: 0 }],
    ['more rows than can be', { rows: 2 ** 50 }],
    ['a group of nothing', { group: 0 }],
    ['a group of more than there is', { group: 65 }],
    ['another type', { dtype: 'i32' as 'f32' }],
    ['another form', { to: 'int2' as 'int4' }],
  ])('of %s is refused', (_what, change) => {
    expect(() => native().quantise({ ...job, ...change })).toThrow();
  });
});
