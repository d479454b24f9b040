// Keys and values that cannot be a cache's, or not with these scales: refused before anything runs.

import { afterAll, describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/port/native.js';
import type { Op } from '../../offload/port/ops.js';
import { filledCache } from './cache-operands.js';
import { workbench } from './workbench.js';

const stream = native().createStream('refused');
afterAll(() => stream.close());

type Store = Extract<Op, { op: 'kv_store' }>;

describe('kv_store refuses', () => {
  const bench = workbench(1, undefined);
  const of = (kvType: 'f32' | 'i8' | 'u8' | 'e4m3', depth: number): Store => {
    const [k, v] = [bench.activation([3, 2, depth]), bench.activation([3, 2, depth])];
    const cache = filledCache(bench, kvType, { pages: 4, kvHeads: 2, pageTokens: 4, depth });
    return { op: 'kv_store', k, v, ...cache, slots: bench.index([1, 2, 3]) };
  };
  const [f32, i8, u8, e4m3] = [of('f32', 64), of('i8', 64), of('u8', 64), of('e4m3', 10)];
  const odd = bench.activation([3, 2, 5]);
  const short = bench.memory.tensor('u8', [4, 2, 4, 2]);
  const cases: readonly [string, Op, RegExp][] = [
    ['codes without scales', { ...i8, keyScales: null }, /codes have scales, and floats have none/],
    ['values without scales', { ...e4m3, valueScales: null }, /codes have scales/],
    [
      'floats with scales',
      { ...f32, keyScales: i8.keyScales, valueScales: i8.valueScales },
      /floats have none/,
    ],
    [
      'one scale where there are two groups',
      { ...u8, keyScales: i8.keyScales },
      /keyScales .* must have 2 in dimension 3/,
    ],
    [
      'scales of two groups for one',
      { ...i8, valueScales: u8.valueScales },
      /valueScales .* must have 1 in dimension 3/,
    ],
    [
      'scales of other pages',
      { ...i8, keyScales: of('i8', 32).keyScales && bench.activation([3, 2, 4, 1], 1, 'bf16') },
      /keyScales .* must have 4 in dimension 0/,
    ],
    [
      'scales of another type',
      { ...i8, keyScales: bench.activation([4, 2, 4, 1], 1, 'f16') },
      /keyScales must be bf16/,
    ],
    [
      'scales at an odd byte',
      { ...i8, keyScales: i8.keyScales && { ...i8.keyScales, offsetBytes: i8.keyScales.offsetBytes + 1 } },
      /keyScales must begin at a multiple of 2/,
    ],
    ['keys and values of two types', { ...i8, values: e4m3.values }, /must have|differ in type/],
    [
      'powers of two as keys',
      { ...f32, keys: bench.activation([4, 2, 4, 64], 1, 'e8m0') },
      /keys must be f32, f16, bf16, e4m3, i8 or u8/,
    ],
    ['indices as keys', { ...f32, keys: bench.activation([4, 2, 4, 64], 1, 'i32') }, /keys must be f32/],
    [
      'heads of an odd size in 4 bits',
      { ...u8, k: odd, v: odd, keys: short, values: short },
      /4 bits are for heads of an even size/,
    ],
    [
      'as many bytes as values in 4 bits',
      {
        ...u8,
        keys: i8.keys,
        values: i8.values,
        k: bench.activation([3, 2, 128]),
        v: bench.activation([3, 2, 128]),
      },
      /keys .* must have 128/,
    ],
    [
      'halves at an odd byte',
      { ...f32, keys: { ...bench.activation([4, 2, 4, 64], 1, 'f16'), offsetBytes: 1 } },
      /keys must begin at a multiple of 2|values/,
    ],
  ];
  it.each(cases)('%s', (_, op, message) => {
    expect(() => stream.launch(encodeOp(op))).toThrow(message);
  });

  it('no cache that fits', async () => {
    for (const op of [f32, i8, u8, e4m3]) stream.launch(encodeOp(op));
    await stream.record().promise();
  });
});
