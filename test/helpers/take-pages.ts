// Pages of a sequence that a test feeds by itself, without an engine.

import type { PageCache } from '../../src/engine/page-cache.js';

/** Numbers of `count` pages that nobody else has. */
export function takePages(pages: PageCache, count: number): number[] {
  return Array.from({ length: count }, () => pages.take().number);
}
