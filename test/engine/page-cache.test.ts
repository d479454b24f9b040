// Pages are out once or shared by those that begin alike, are found again while there is room, and all come back.

import { describe, expect, it } from 'vitest';
import { type Page, PageCache } from '../../src/engine/page-cache.js';
import { randomFrom, randomInt } from '../helpers/random.js';

const PAGE_TOKENS = 4;

/** Takes a sequence's pages in and makes the full ones known, as one that was computed. */
function computed(cache: PageCache, tokens: Int32Array): Page[] {
  const pages = cache.share(tokens);
  for (let index = pages.length; index * PAGE_TOKENS < tokens.length; index++) {
    const page = cache.take();
    pages.push(page);
    const own = tokens.subarray(index * PAGE_TOKENS, (index + 1) * PAGE_TOKENS);
    if (own.length < PAGE_TOKENS) continue;
    cache.publish(page, pages[index - 1], own);
    page.isWritten = true;
  }
  return pages;
}

const numbers = (pages: readonly Page[]) => pages.map(({ number }) => number);

describe('sharing', () => {
  it('finds the longest beginning that is known, and leaves a token to compute', () => {
    const cache = new PageCache(20, PAGE_TOKENS);
    const first = computed(cache, Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9));
    expect(numbers(cache.share(Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 10, 11)))).toEqual(
      numbers(first.slice(0, 2)),
    );
    expect(numbers(cache.share(Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8)))).toEqual(numbers(first.slice(0, 1)));
    expect(cache.share(Int32Array.of(1, 2, 3, 4))).toEqual([]);
    expect(cache.share(Int32Array.of(0, 2, 3, 4, 5, 6, 7, 8, 9))).toEqual([]);
  });

  it('takes no page for another one with the same tokens after other ones', () => {
    const cache = new PageCache(20, PAGE_TOKENS);
    computed(cache, Int32Array.of(1, 1, 1, 1, 7, 7, 7, 7, 0));
    const other = computed(cache, Int32Array.of(2, 2, 2, 2, 7, 7, 7, 7, 0));
    expect(numbers(cache.share(Int32Array.of(2, 2, 2, 2, 7, 7, 7, 7, 0)))).toEqual(
      numbers(other.slice(0, 2)),
    );
  });

  it('goes on below a page that two have computed', () => {
    const cache = new PageCache(20, PAGE_TOKENS);
    const [a, b] = [cache.take(), cache.take()];
    for (const page of [a, b]) {
      cache.publish(page, undefined, Int32Array.of(1, 2, 3, 4));
      page.isWritten = true;
    }
    const below = cache.take();
    cache.publish(below, b, Int32Array.of(5, 6, 7, 8));
    expect(numbers(cache.share(Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9)))).toEqual(numbers([a, below]));
  });

  it('finds nothing written below a page that another is still to write', () => {
    const cache = new PageCache(20, PAGE_TOKENS);
    const [unwritten, own, below] = [cache.take(), cache.take(), cache.take()];
    cache.publish(unwritten, undefined, Int32Array.of(1, 2, 3, 4));
    cache.publish(own, undefined, Int32Array.of(1, 2, 3, 4));
    cache.publish(below, own, Int32Array.of(5, 6, 7, 8));
    own.isWritten = true;
    below.isWritten = true;
    const found = cache.share(Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9));
    expect(numbers(found)).toEqual(numbers([unwritten]));
  });

  it('keeps what nobody holds until the room is wanted, the ends of sequences for a shorter time', () => {
    const cache = new PageCache(4, PAGE_TOKENS);
    const tokens = Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9);
    const pages = computed(cache, tokens);
    cache.release(pages);
    expect(cache.freePages).toBe(4);
    const again = cache.share(tokens);
    expect(numbers(again)).toEqual(numbers(pages.slice(0, 2)));
    cache.release(again);
    // Two are empty; the third is the end of what is known.
    for (let taken = 0; taken < 3; taken++) cache.take();
    expect(numbers(cache.share(tokens))).toEqual(numbers(pages.slice(0, 1)));
    expect(cache.canTake(1)).toBe(false);
  });

  it('forgets a page that was abandoned before it was written, and one that is not full', () => {
    const cache = new PageCache(8, PAGE_TOKENS);
    const page = cache.take();
    cache.publish(page, undefined, Int32Array.of(1, 2, 3, 4));
    const [shared] = cache.share(Int32Array.of(1, 2, 3, 4, 5));
    expect(shared).toBe(page);
    cache.abandon(page);
    cache.release([page]);
    expect(shared?.isAbandoned).toBe(true);
    expect(cache.share(Int32Array.of(1, 2, 3, 4, 5))).toEqual([]);
    expect(cache.freePages).toBe(7);
    cache.release([page]);
    expect(cache.freePages).toBe(8);
    expect(() => cache.release([page])).toThrow(/given back once/);
  });
});

it('whatever is taken, shared and given back: pages of one content, none out twice, all back in the end', () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = randomFrom(seed);
    const cache = new PageCache(24, PAGE_TOKENS);
    const held: { readonly tokens: Int32Array; readonly pages: Page[] }[] = [];
    for (let step = 0; step < 300; step++) {
      const tokens = Int32Array.from({ length: 1 + randomInt(random, 20) }, () => randomInt(random, 2));
      if (cache.canTake(Math.ceil(tokens.length / PAGE_TOKENS)) && random() < 0.6) {
        held.push({ tokens, pages: computed(cache, tokens) });
      } else if (held.length > 0) {
        const [gone] = held.splice(randomInt(random, held.length), 1);
        if (gone) cache.release(gone.pages);
      }
      const contents = new Map<number, string>();
      for (const one of held) {
        for (const [index, { number }] of one.pages.entries()) {
          const end = (index + 1) * PAGE_TOKENS;
          // What it holds and all before it; a page that is not full is its sequence's alone.
          const content = end <= one.tokens.length ? one.tokens.slice(0, end).join() : `${held.indexOf(one)}`;
          expect(contents.get(number) ?? content).toBe(content);
          contents.set(number, content);
        }
      }
      expect(cache.freePages).toBe(24 - contents.size);
    }
    for (const { pages } of held) cache.release(pages);
    expect(cache.freePages).toBe(24);
  }
});
