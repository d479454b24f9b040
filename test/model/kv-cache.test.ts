// Pages lie in memory without overlapping.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import {
  blockCache,
  blockPageBytes,
  type KvShape,
  PAGE_TOKENS,
  pageBytes,
  pagesFor,
} from '../../offload/model/kv-cache.js';
import { KV_TYPE_NAMES, type KvDType, scaleGroups } from '../../offload/model/kv-type.js';
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
    const shape: KvShape = { blocks: 3, kvHeads: 2, headDim: 8, dtype };
    const pageCount = 5;
    const memory = { id: 0, sizeBytes: pageCount * pageBytes(shape) };
    const half = pageBytes(shape) / shape.blocks / 2;
    const ranges = Array.from({ length: shape.blocks }, (_, index) => {
      const { keys, values } = blockCache(memory, shape, pageCount, index);
      return [keys, values].flatMap((cache) => {
        expect(cache.offsetBytes + spanBytes(cache)).toBeLessThanOrEqual(memory.sizeBytes);
        return Array.from({ length: pageCount }, (__, page) => {
          const start = cache.offsetBytes + page * present(cache.strides[0], 'stride') * DTYPE_BYTES[dtype];
          return [start, start + half] as const;
        });
      });
    }).flat();
    let covered = 0;
    for (const [start, end] of ranges.sort(([a], [b]) => a - b)) {
      expect(start).toBe(covered);
      covered = end;
    }
    expect(covered).toBe(memory.sizeBytes);
  });

  const types = Object.keys(KV_TYPE_NAMES) as KvDType[];
  const shapes = types.flatMap((dtype) =>
    [2, 8, 37, 64, 80, 128].flatMap((headDim) =>
      dtype === 'u8' && headDim % 2 !== 0
        ? []
        : [1, 3].flatMap((kvHeads) => [1, 16].map((pageTokens) => ({ dtype, headDim, kvHeads, pageTokens }))),
    ),
  );

  it.each(shapes)(
    'of $dtype, $kvHeads heads of $headDim, $pageTokens tokens: nothing lies on anything',
    (one) => {
      const shape: KvShape = { blocks: 2, ...one };
      const [pageCount, each] = [3, blockPageBytes(shape)];
      const memory = { id: 0, sizeBytes: pageCount * pageBytes(shape) };
      const owner = new Map<number, string>();
      for (const block of [0, 1]) {
        const cache = blockCache(memory, shape, pageCount, block);
        for (const [name, tensor] of Object.entries(cache) as [string, (typeof cache)['keyScales']][]) {
          if (!tensor) continue;
          expect(tensor.offsetBytes + spanBytes(tensor)).toBeLessThanOrEqual(memory.sizeBytes);
          const [rows = 0, tokens = 0, columns = 0] = tensor.shape.slice(1);
          const bytes = DTYPE_BYTES[tensor.dtype];
          for (let page = 0; page < pageCount; page++) {
            for (let row = 0; row < rows * tokens; row++) {
              const [pageStride = 0, head = 0, token = 0] = tensor.strides;
              const element = page * pageStride + Math.floor(row / tokens) * head + (row % tokens) * token;
              const start = tensor.offsetBytes + element * bytes;
              expect(start % bytes).toBe(0);
              // A page is one run of bytes, whatever it holds.
              expect(Math.floor(start / each)).toBe(block * pageCount + page);
              for (let byte = start; byte < start + columns * bytes; byte++) {
                expect(owner.get(byte), `${name} of page ${page}`).toBeUndefined();
                owner.set(byte, name);
              }
            }
          }
        }
      }
      const padding = memory.sizeBytes - owner.size;
      expect(padding).toBeLessThan(scaleGroups(one.dtype, one.headDim) > 0 ? 2 * pageCount * 16 : 1);
    },
  );

  it.each(['e4m3', 'i8', 'u8'] as const)(
    'rows of %s lie aligned where the size of heads allows it',
    (dtype) => {
      const shape: KvShape = { blocks: 3, kvHeads: 3, headDim: 64, dtype };
      for (const block of [0, 1, 2]) {
        for (const { offsetBytes, strides, dtype: type } of cacheTensors(
          blockCache({ id: 0, sizeBytes: 1e9 }, shape, 5, block),
        )) {
          const align = type === 'bf16' ? 2 : 16;
          const bytes = [0, ...strides.slice(0, 3)].map((stride) => offsetBytes + stride * DTYPE_BYTES[type]);
          expect(bytes.map((at) => at % align)).toEqual([0, 0, 0, 0]);
        }
      }
    },
  );

  it('a token takes what its codes and scales take', () => {
    const of = (dtype: KvDType) => pageBytes({ blocks: 1, kvHeads: 8, headDim: 128, dtype }) / PAGE_TOKENS;
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
