// How far back later tokens read: blocks of one horizon have a table of pages of their own, and give back what lies behind it.

import { type CacheSpec, type PagedCache, pagesOwner } from './cache-spec.js';

/** What later tokens still read of a sequence: its latest positions, or those of the chunk that the next one is in. */
export interface Horizon {
  readonly tokens: number;
  readonly inChunks: boolean;
}

/** A table of pages for the blocks of one horizon. */
export interface HorizonPages {
  readonly horizon: Horizon;
  /** That a device has in each of these blocks. */
  readonly pages: number;
  /** Where keys and values rest in DRAM: pages in a buffer for one block of a micro-batch. */
  readonly bufferPages: number;
}

/** Undefined where every token sees all before it. With a window and chunks, the window alone says what is kept. */
export function horizonOf({ windowTokens = 0, chunkTokens = 0 }: PagedCache): Horizon | undefined {
  if (windowTokens > 0) return { tokens: windowTokens, inChunks: false };
  return chunkTokens > 0 ? { tokens: chunkTokens, inChunks: true } : undefined;
}

/** The first position that a token at `position`, or any later one, reads. */
export function firstRead({ tokens, inChunks }: Horizon, position: number): number {
  return inChunks ? position - (position % tokens) : Math.max(0, position - tokens + 1);
}

/** Pages that hold all that a token reads, itself included, wherever a page begins. */
export function pagesOfHorizon({ tokens }: Horizon, pageTokens: number): number {
  return Math.ceil((tokens - 1) / pageTokens) + 1;
}

export interface HeldSizes {
  /** The longest sequence has so many. */
  readonly contextTokens: number;
  readonly pageTokens: number;
  readonly microBatchTokens: number;
  readonly microBatchSequences: number;
}

/**
 * Pages that so many sequences hold at most: between micro-batches what the next token reads, in one its new tokens as well.
 * No sequence holds more than it does of its whole context.
 */
export function mostHeldPages(horizon: Horizon, sequences: number, sizes: HeldSizes): number {
  const { contextTokens, pageTokens, microBatchTokens, microBatchSequences } = sizes;
  const kept = Math.min(Math.ceil(contextTokens / pageTokens), pagesOfHorizon(horizon, pageTokens));
  // A slice of one token needs no page more; each of the others begins and ends anywhere in one.
  const parted = Math.min(microBatchSequences, Math.floor(microBatchTokens / 2));
  return sequences * kept + Math.ceil((microBatchTokens + parted * Math.max(0, pageTokens - 2)) / pageTokens);
}

/**
 * Those that blocks have. Pages that other blocks read as well are kept whole: these come when the micro-batches after have
 * stored theirs, which may be in the same places.
 */
export function horizonsOf(caches: readonly CacheSpec[]): Horizon[] {
  const found: Horizon[] = [];
  for (const horizon of ownHorizons(caches)) {
    if (horizon && !found.some((one) => isSame(one, horizon))) found.push(horizon);
  }
  return found;
}

/** By block: which table of pages it reads; 0 is that of whole contexts, then come those of `horizons`. */
export function pageTables(caches: readonly CacheSpec[], horizons: readonly HorizonPages[]): number[] {
  const own = ownHorizons(caches);
  return caches.map((_, block) => {
    const owner = pagesOwner(caches, block);
    const horizon = owner === undefined ? undefined : own[owner];
    return horizon ? 1 + horizons.findIndex((one) => isSame(one.horizon, horizon)) : 0;
  });
}

function ownHorizons(caches: readonly CacheSpec[]): (Horizon | undefined)[] {
  const shared = new Set(caches.map((cache) => (cache.kind === 'shared' ? cache.block : undefined)));
  return caches.map((cache, block) =>
    cache.kind === 'paged' && !shared.has(block) ? horizonOf(cache) : undefined,
  );
}

function isSame(a: Horizon, b: Horizon): boolean {
  return a.tokens === b.tokens && a.inChunks === b.inChunks;
}
