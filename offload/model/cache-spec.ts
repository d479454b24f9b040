// What a block keeps of the tokens it has seen: pages of keys and values of its own or another's, a state, or nothing.

import { assert, present } from '../errors.js';
import type { DType } from '../port/dtype.js';
import type { ScoreRule } from '../port/ops.js';

/** Pages that grow with the sequence. */
export interface PagedCache {
  readonly kind: 'paged';
  readonly kvHeads: number;
  /** Values of a head's key. */
  readonly keyDim: number;
  readonly valueDim: number;
  /** A head's value is the first `valueDim` of its key, and is not stored a second time. */
  readonly valuesInKeys: boolean;
  /** A token sees that many of the latest positions; absent for all. */
  readonly windowTokens?: number;
  /** A token sees positions of its own run of so many, counted from the first one; absent for all. */
  readonly chunkTokens?: number;
}

/** One of the tensors that a block keeps for each sequence. */
export interface StateField {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** There are as many of that shape as the longest sequence has whole runs of so many tokens, and at least one; absent for one. */
  readonly runTokens?: number;
}

/** One block's. */
export type CacheSpec =
  | PagedCache
  /** It reads the pages of an earlier block, which has some of its own, and stores nothing. */
  | { readonly kind: 'shared'; readonly block: number }
  /** A fixed slot for each sequence: reset when it begins, copied with it, never rewound. */
  | {
      readonly kind: 'recurrent';
      readonly fields: readonly StateField[];
    }
  | { readonly kind: 'none' };

/** What blocks see, by block; 0 for everything. */
export interface SeenTokens {
  readonly windowTokens?: ((blockIndex: number) => number) | undefined;
  readonly chunkTokens?: ((blockIndex: number) => number) | undefined;
}

/** As most models have them: keys and values of one size, in every block. */
export function alikeCaches(
  blockCount: number,
  kvHeads: number,
  headDim: number,
  seen: SeenTokens = {},
): PagedCache[] {
  const cache = { kind: 'paged', kvHeads, keyDim: headDim, valueDim: headDim, valuesInKeys: false } as const;
  return Array.from({ length: blockCount }, (_, index) => ({
    ...cache,
    ...seenTokens(seen.windowTokens?.(index), seen.chunkTokens?.(index)),
  }));
}

/** As a cache says it. */
export function seenTokens(
  windowTokens = 0,
  chunkTokens = 0,
): Pick<PagedCache, 'windowTokens' | 'chunkTokens'> {
  return { ...(windowTokens > 0 ? { windowTokens } : {}), ...(chunkTokens > 0 ? { chunkTokens } : {}) };
}

/** Whose pages a block reads: its own or another's; undefined where it reads none. */
export function pagesOwner(caches: readonly CacheSpec[], block: number): number | undefined {
  const cache = present(caches[block], 'the cache of a block');
  switch (cache.kind) {
    case 'paged':
      return block;
    case 'shared':
      assert(
        cache.block < block && caches[cache.block]?.kind === 'paged',
        'a block shares the pages of an earlier one',
      );
      return cache.block;
    case 'recurrent':
    case 'none':
      return undefined;
  }
}

/** The pages that a block reads, its own or another's. */
export function pagedCache(caches: readonly CacheSpec[], block: number): PagedCache | undefined {
  const owner = pagesOwner(caches, block);
  const cache = owner === undefined ? undefined : caches[owner];
  return cache?.kind === 'paged' ? cache : undefined;
}

/** Pages that blocks have of their own. */
export function ownPages(caches: readonly CacheSpec[]): PagedCache[] {
  return caches.filter((cache) => cache.kind === 'paged');
}

/** What lies behind a cache's window may be another sequence's by now. */
export function isKept({ windowTokens, chunkTokens }: PagedCache, score: ScoreRule): boolean {
  const { windowTokens: seen = 0 } = score;
  if (windowTokens !== undefined) return seen > 0 && seen <= windowTokens;
  return chunkTokens === undefined || score.chunkTokens === chunkTokens;
}
