// Pages are handed out once, come back, and lie in memory without overlapping.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import {
  blockCache,
  type KvShape,
  PAGE_TOKENS,
  PageAllocator,
  pageBytes,
  pagesFor,
} from '../../offload/model/kv-cache.js';
import { DTYPE_BYTES } from '../../offload/port/dtype.js';
import { spanBytes } from '../../offload/port/ops.js';
import { randomFrom, randomInt } from '../helpers/random.js';

describe('PageAllocator', () => {
  it('never has a page out twice, and has all of them when everything came back', () => {
    const random = randomFrom(1);
    const pages = new PageAllocator(20);
    const held: number[][] = [];
    const out = new Set<number>();
    for (let step = 0; step < 500; step++) {
      const wanted = 1 + randomInt(random, 6);
      if (pages.canAllocate(wanted) && random() < 0.6) {
        const got = pages.allocate(wanted);
        for (const page of got) {
          expect(out.has(page)).toBe(false);
          expect(page >= 0 && page < 20).toBe(true);
          out.add(page);
        }
        held.push(got);
      } else {
        const back = held.splice(randomInt(random, held.length || 1), 1)[0] ?? [];
        for (const page of back) out.delete(page);
        pages.free(back);
      }
      expect(pages.freePages).toBe(20 - out.size);
    }
  });

  it('refuses what it does not have, and pages that come back twice', () => {
    const pages = new PageAllocator(2);
    expect(pages.canAllocate(3)).toBe(false);
    expect(() => pages.allocate(3)).toThrow(/pages are free/);
    const got = pages.allocate(2);
    pages.free(got);
    expect(() => pages.free(got)).toThrow(/freed once/);
  });

  it('gives nothing for nothing', () => {
    expect(new PageAllocator(0).allocate(0)).toEqual([]);
  });
});

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
