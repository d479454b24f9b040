// Pages lie in memory without overlapping.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { blockCache, type KvShape, PAGE_TOKENS, pageBytes, pagesFor } from '../../offload/model/kv-cache.js';
import { DTYPE_BYTES } from '../../offload/port/dtype.js';
import { spanBytes } from '../../offload/port/ops.js';

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
});
