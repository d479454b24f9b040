// Rotations and the store of keys that a GPU computes by one kernel: the same bits as one operation after the other, whatever the
// shapes are, and also where they may not be computed together.

import { describe, it } from 'vitest';
import type { FloatType } from '../../offload/port/dtype.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import { heads } from '../../offload/port/tensor.js';
import { expectSameTogether, type GpuBench, gpuBench, HAS_GPU } from './cuda-device.js';
import { NO_SCALES } from './workbench.js';

interface Shape {
  readonly what: string;
  readonly tokens: number;
  readonly queryHeads: number;
  readonly keyHeads: number;
  readonly depth: number;
  readonly pairs: number;
  readonly interleaved?: boolean;
  /** Queries, keys and values are parts of one projection. */
  readonly fused?: boolean;
  readonly valueDepth?: number;
  readonly cacheType?: FloatType;
  readonly awkward?: boolean;
  /** Which operation comes in between, or is another. */
  readonly odd?: 'between' | 'scale' | 'positions' | 'twice' | 'keys first';
}

const USUAL = { tokens: 1, queryHeads: 32, keyHeads: 8, depth: 128, pairs: 64 } as const;
const SHAPES: readonly Shape[] = [
  { what: 'as usual', ...USUAL },
  { what: 'sixteen tokens', ...USUAL, tokens: 16 },
  { what: 'many tokens', ...USUAL, tokens: 128 },
  { what: 'too many tokens', ...USUAL, tokens: 129 },
  { what: 'few heads', ...USUAL, queryHeads: 3, keyHeads: 1, tokens: 5 },
  { what: 'neighbours', ...USUAL, interleaved: true, tokens: 2 },
  { what: 'a part of each head', ...USUAL, pairs: 16, tokens: 3 },
  { what: 'a part, neighbours', ...USUAL, pairs: 24, interleaved: true },
  { what: 'pairs that are no eights', ...USUAL, pairs: 20 },
  { what: 'one projection', ...USUAL, fused: true },
  { what: 'one projection, four tokens', ...USUAL, fused: true, tokens: 4 },
  { what: 'short values', ...USUAL, valueDepth: 64, tokens: 2 },
  { what: 'long values', ...USUAL, depth: 64, pairs: 32, valueDepth: 128 },
  { what: 'a cache of another type', ...USUAL, cacheType: 'f32' },
  { what: 'awkward places', ...USUAL, awkward: true, tokens: 2 },
  { what: 'something in between', ...USUAL, odd: 'between' },
  { what: 'another scale', ...USUAL, odd: 'scale' },
  { what: 'other positions', ...USUAL, odd: 'positions', tokens: 2 },
  { what: 'keys turned twice', ...USUAL, odd: 'twice' },
  { what: 'keys first', ...USUAL, odd: 'keys first' },
];
const PAGES = 9;
const PAGE_TOKENS = 16;

describe.skipIf(!HAS_GPU)('rotations with the store of keys on CUDA', () => {
  for (const half of ['bf16', 'f16'] as const) {
    it.each(SHAPES)(`$what, ${half}`, async (shape) => {
      const bench = gpuBench(shape.tokens, shape.awkward === true);
      await expectSameTogether(bench, chainOf(bench, shape, half), shape.what);
    });
  }
});

function chainOf(bench: GpuBench, shape: Shape, half: FloatType): readonly Op[] {
  const { tokens, queryHeads, keyHeads, depth, pairs, interleaved = false, odd } = shape;
  const { valueDepth = depth, cacheType = half } = shape;
  const [q, k, v] = operandsOf(bench, shape, half);
  const positions = bench.index(Array.from({ length: tokens }, (_, token) => 90_000 + 7 * token));
  const inverseFrequencies = bench.vector('f32', pairs);
  const turn = (x: Tensor, more: Partial<Extract<Op, { op: 'rotary' }>> = {}): Op => ({
    op: 'rotary',
    ...{ x, positions, inverseFrequencies, interleaved, scale: 1.25 },
    ...more,
  });
  const cache = (width: number) => bench.activation([PAGES, keyHeads, PAGE_TOKENS, width], 1, cacheType);
  const slots = bench.index(
    Array.from({ length: tokens }, (_, token) => (token * 29 + 3) % (PAGES * PAGE_TOKENS)),
  );
  const store: Op = {
    op: 'kv_store',
    ...{ k, v, keys: cache(depth), values: cache(valueDepth), ...NO_SCALES, slots },
  };
  const other = bench.activation([tokens, queryHeads * 8], 1, half);
  const add: Op = { op: 'add', out: other, a: other, b: other };
  const later = bench.index(Array.from({ length: tokens }, (_, token) => 5 * token));
  switch (odd) {
    case 'between':
      return [add, turn(q), turn(k), add, store];
    case 'scale':
      return [add, turn(q), turn(k, { scale: 1 }), store];
    case 'positions':
      return [add, turn(q), turn(k, { positions: later }), store];
    case 'twice':
      return [add, turn(k), turn(k), store, turn(q)];
    case 'keys first':
      return [add, turn(k), turn(q), store];
    default:
      return [add, turn(q), turn(k), store, add];
  }
}

function operandsOf(bench: GpuBench, shape: Shape, half: FloatType): [Tensor, Tensor, Tensor] {
  const { tokens, queryHeads, keyHeads, depth, valueDepth = depth } = shape;
  if (!shape.fused) {
    const make = (count: number, width: number) => bench.activation([tokens, count, width], 1, half);
    return [make(queryHeads, depth), make(keyHeads, depth), make(keyHeads, valueDepth)];
  }
  const all = bench.activation([tokens, (queryHeads + 2 * keyHeads) * depth], 1, half);
  const part = (count: number, first: number) => heads(all, count, depth, first * depth);
  return [part(queryHeads, 0), part(keyHeads, queryHeads), part(keyHeads, queryHeads + keyHeads)];
}
