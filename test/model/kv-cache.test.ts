// Pages lie in memory without overlapping.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { alikeCaches } from '../../offload/model/cache-spec.js';
import {
  cachePageBytes,
  type KvShape,
  layerCaches,
  PAGE_TOKENS,
  pageBytes,
  pagesFor,
} from '../../offload/model/kv-cache.js';
import { KV_TYPE_NAMES, type KvDType, scaleGroups, storedColumns } from '../../offload/model/kv-type.js';
import { DTYPE_BYTES } from '../../offload/port/dtype.js';
import { cacheTensors, spanBytes } from '../../offload/port/ops.js';

describe('pages', () => {
  it.each([
    [0, 0],
    [1, 1],
    [PAGE_TOKENS, 1],
    [PAGE_TOKENS + 1, 2],
  ])('%i tokens need %i pages', (tokens, pages) => {
    expect(pagesFor(tokens)).toBe(pages);
  });

  it.each(['f32', 'bf16'] as const)('%s keys and values of all blocks fill their memory exactly', (dtype) => {
    const shape: KvShape = { caches: alikeCaches(3, 2, 8), dtype };
    const pageCount = 5;
    const memory = { id: 0, sizeBytes: pageCount * pageBytes(shape) };
    const half = pageBytes(shape) / 3 / 2;
    const ranges = layerCaches(memory, shape, { kvPages: pageCount, horizons: [] }).flatMap((one) => {
      const { keys, values } = present(one, 'a cache');
      return [keys, values].flatMap((cache) => {
        expect(cache.offsetBytes + spanBytes(cache)).toBeLessThanOrEqual(memory.sizeBytes);
        return Array.from({ length: pageCount }, (__, page) => {
          const start = cache.offsetBytes + page * present(cache.strides[0], 'stride') * DTYPE_BYTES[dtype];
          return [start, start + half] as const;
        });
      });
    });
    let covered = 0;
    for (const [start, end] of ranges.sort(([a], [b]) => a - b)) {
      expect(start).toBe(covered);
      covered = end;
    }
    expect(covered).toBe(memory.sizeBytes);
  });

  const types = Object.keys(KV_TYPE_NAMES) as KvDType[];
  /** Heads of one size and of two, and values in keys. */
  const dims = [2, 8, 37, 64, 80, 128].map((size) => ({ keyDim: size, valueDim: size, valuesInKeys: false }));
  dims.push(
    { keyDim: 24, valueDim: 16, valuesInKeys: false },
    { keyDim: 96, valueDim: 64, valuesInKeys: true },
  );
  const shapes = types.flatMap((dtype) =>
    dims.flatMap((dim) =>
      dtype === 'u8' && dim.keyDim % 2 !== 0
        ? []
        : [1, 3].flatMap((kvHeads) => [1, 16].map((pageTokens) => ({ dtype, ...dim, kvHeads, pageTokens }))),
    ),
  );

  it.each(shapes)(
    'of $dtype, $kvHeads heads of $keyDim and $valueDim, $pageTokens tokens: nothing lies on anything',
    ({ dtype, pageTokens, ...one }) => {
      const cache = { kind: 'paged', ...one } as const;
      // Blocks of other sizes, without pages and with another's lie between.
      const other = { kind: 'paged', kvHeads: 2, keyDim: 10, valueDim: 10, valuesInKeys: false } as const;
      const caches = [cache, other, { kind: 'none' }, { kind: 'shared', block: 0 }, cache] as const;
      const shape: KvShape = { caches, dtype, pageTokens };
      const pageCount = 3;
      const memory = { id: 0, sizeBytes: pageCount * pageBytes(shape) };
      const all = layerCaches(memory, shape, { kvPages: pageCount, horizons: [] });
      expect([all[2], all[3]]).toEqual([undefined, all[0]]);
      const taken = new Uint8Array(memory.sizeBytes);
      const astray: string[] = [];
      let begin = 0;
      for (const block of [0, 1, 4]) {
        const each = cachePageBytes(block === 1 ? other : cache, shape);
        const found = present(all[block], 'a cache');
        for (const tensor of cacheTensors(found)) {
          expect(tensor.offsetBytes + spanBytes(tensor)).toBeLessThanOrEqual(memory.sizeBytes);
          const [rows = 0, tokens = 0, columns = 0] = tensor.shape.slice(1);
          const bytes = DTYPE_BYTES[tensor.dtype];
          for (let page = 0; page < pageCount; page++) {
            for (let row = 0; row < rows * tokens; row++) {
              const [pageStride = 0, head = 0, token = 0] = tensor.strides;
              const element = page * pageStride + Math.floor(row / tokens) * head + (row % tokens) * token;
              const start = tensor.offsetBytes + element * bytes;
              // A page is one run of bytes, whatever it holds.
              if (start % bytes !== 0 || Math.floor((start - begin) / each) !== page)
                astray.push(`block ${block}, page ${page}: ${start}`);
              for (let byte = start; byte < start + columns * bytes; byte++)
                taken[byte] = (taken[byte] ?? 0) + 1;
            }
          }
        }
        if (found.cache.valuesInKeys) {
          expect(found.values).toEqual({ ...found.keys, shape: found.values.shape });
          expect(found.values.shape.at(-1)).toBe(storedColumns(dtype, found.cache.valueDim));
          expect(found.valueScales?.shape.at(-1) ?? 0).toBe(scaleGroups(dtype, found.cache.valueDim));
        }
        begin += pageCount * each;
      }
      expect(astray).toEqual([]);
      const padding = taken.filter((times) => times === 0).length;
      expect(taken.filter((times) => times > 1).length).toBe(0);
      expect(padding).toBeLessThan(scaleGroups(dtype, one.keyDim) > 0 ? 3 * pageCount * 16 : 1);
    },
  );

  it.each(['e4m3', 'i8', 'u8'] as const)(
    'rows of %s lie aligned where the size of heads allows it',
    (dtype) => {
      const shape: KvShape = { caches: alikeCaches(3, 3, 64), dtype };
      for (const cache of layerCaches({ id: 0, sizeBytes: 1e9 }, shape, { kvPages: 5, horizons: [] })) {
        for (const { offsetBytes, strides, dtype: type } of cacheTensors(present(cache, 'a cache'))) {
          const align = type === 'bf16' ? 2 : 16;
          const bytes = [0, ...strides.slice(0, 3)].map((stride) => offsetBytes + stride * DTYPE_BYTES[type]);
          expect(bytes.map((at) => at % align)).toEqual([0, 0, 0, 0]);
        }
      }
    },
  );

  it('a token takes what its codes and scales take', () => {
    const of = (dtype: KvDType) => pageBytes({ caches: alikeCaches(1, 8, 128), dtype }) / PAGE_TOKENS;
    const values = 2 * 8 * 128;
    expect(types.map(of)).toEqual([
      values * 4,
      values * 2,
      values * 2,
      values + 2 * 8 * 2,
      values + 2 * 8 * 2,
      values / 2 + 2 * 8 * 4 * 2,
    ]);
  });
});
