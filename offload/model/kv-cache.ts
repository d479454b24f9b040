// Pages of cached keys and values: how large they are, and where they lie in the memory that holds all of them.

import { present } from '../errors.js';
import { DTYPE_BYTES, type DType } from '../port/dtype.js';
import type { BlockCache, Memory, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { roundUp } from '../units.js';
import { type CacheSpec, ownPages, type PagedCache, pagedCache, pagesOwner } from './cache-spec.js';
import { type HorizonPages, pageTables } from './horizon.js';
import { type KvDType, scaleGroups, storedColumns } from './kv-type.js';

/** Tokens in a page, unless a plan says otherwise. Sequences of different lengths waste less than one page each. */
export const PAGE_TOKENS = 16;

export interface PageFormat {
  readonly dtype: KvDType;
  /** Tokens in a page; default PAGE_TOKENS. */
  readonly pageTokens?: number;
}

export interface KvShape extends PageFormat {
  /** By block. */
  readonly caches: readonly CacheSpec[];
}

/** What a block's attention reads, and whose pages they are. */
export interface LayerCache extends BlockCache {
  readonly cache: PagedCache;
}

/** Pages that hold scales begin at multiples of it, as kernels' widest loads want it of their codes. */
const CODED_PAGE_ALIGNMENT_BYTES = 16;

/** Bytes of one page in all blocks. */
export function pageBytes(shape: KvShape): number {
  return ownPages(shape.caches).reduce((sum, cache) => sum + cachePageBytes(cache, shape), 0);
}

/** Bytes of the page that a block reads, be it another's; 0 where it reads none. */
export function blockPageBytes(shape: KvShape, block: number): number {
  const cache = pagedCache(shape.caches, block);
  return cache ? cachePageBytes(cache, shape) : 0;
}

/** How many pages there are: for blocks that see whole contexts, and by horizon for others. */
export interface PageCounts {
  readonly kvPages: number;
  readonly horizons: readonly HorizonPages[];
}

/** Pages of each block, as its table has them. */
export function blockPages(caches: readonly CacheSpec[], { kvPages, horizons }: PageCounts): number[] {
  const counts = [kvPages, ...horizons.map(({ pages }) => pages)];
  return pageTables(caches, horizons).map((table) => counts[table] ?? 0);
}

/** Bytes of all pages in all blocks. */
export function cacheBytes(shape: KvShape, counts: PageCounts): number {
  const pages = blockPages(shape.caches, counts);
  return shape.caches.reduce(
    (sum, cache, block) =>
      sum + (cache.kind === 'paged' ? (pages[block] ?? 0) * cachePageBytes(cache, shape) : 0),
    0,
  );
}

/** Bytes of a buffer that holds the pages of a micro-batch, by table, in any block. */
export function bufferBytes(shape: KvShape, tablePages: readonly number[], counts: PageCounts): number {
  const tables = pageTables(shape.caches, counts.horizons);
  return shape.caches.reduce(
    (most, _, block) => Math.max(most, (tablePages[tables[block] ?? 0] ?? 0) * blockPageBytes(shape, block)),
    0,
  );
}

/**
 * Bytes of one page in one block: kvHeads · pageTokens · (bytes of a key and, where it is stored, of a value, + 2 per
 * scale), rounded up where there are scales.
 */
export function cachePageBytes(cache: PagedCache, format: PageFormat): number {
  const { scalesAt, sizeBytes } = partsOfPage(cache, format);
  return scalesAt < sizeBytes ? roundUp(sizeBytes, CODED_PAGE_ALIGNMENT_BYTES) : sizeBytes;
}

/** Where in a page its values, the scales of keys and those of values begin, and where all ends. */
function partsOfPage(cache: PagedCache, { dtype, pageTokens = PAGE_TOKENS }: PageFormat) {
  const rows = cache.kvHeads * pageTokens;
  const codes = (columns: number) => rows * storedColumns(dtype, columns) * DTYPE_BYTES[dtype];
  const scales = (columns: number) => rows * scaleGroups(dtype, columns) * DTYPE_BYTES.bf16;
  const valueDim = cache.valuesInKeys ? 0 : cache.valueDim;
  const valuesAt = codes(cache.keyDim);
  const scalesAt = valuesAt + codes(valueDim);
  const valueScalesAt = scalesAt + scales(cache.keyDim);
  return {
    valuesAt,
    scalesAt,
    valueScalesAt,
    sizeBytes: valueScalesAt + (valueDim > 0 ? scales(valueDim) : 0),
  };
}

export function pagesFor(tokens: number, pageTokens = PAGE_TOKENS): number {
  return Math.ceil(tokens / pageTokens);
}

/** By block: what it reads of the memory that holds the pages of all of them, block after block. */
export function layerCaches(
  memory: Memory,
  shape: KvShape,
  counts: PageCounts,
): readonly (LayerCache | undefined)[] {
  const own: (LayerCache | undefined)[] = [];
  const pages = blockPages(shape.caches, counts);
  let startBytes = 0;
  return shape.caches.map((cache, block) => {
    if (cache.kind === 'paged') {
      const pageCount = present(pages[block], 'pages of a block');
      own[block] = layerCache(memory, startBytes, cache, { ...shape, pageCount });
      startBytes += pageCount * cachePageBytes(cache, shape);
    }
    const owner = pagesOwner(shape.caches, block);
    return owner === undefined ? undefined : own[owner];
  });
}

/**
 * The cache tensors of one block. In a page lie keys, values, scales of the keys and scales of the values, one after the
 * other, so that consecutive pages are one run of bytes; values that lie in keys are a view of them.
 */
export function layerCache(
  memory: Memory,
  startBytes: number,
  cache: PagedCache,
  format: PageFormat & { readonly pageCount: number },
): LayerCache {
  const { kvHeads, keyDim, valueDim, valuesInKeys } = cache;
  const { dtype, pageTokens = PAGE_TOKENS, pageCount } = format;
  const { valuesAt, scalesAt, valueScalesAt } = partsOfPage(cache, format);
  const each = cachePageBytes(cache, format);
  const at = (offsetBytes: number, type: DType, columns: number): Tensor => {
    const whole = tensor(memory, startBytes + offsetBytes, type, [pageCount, kvHeads, pageTokens, columns]);
    return { ...whole, strides: [each / DTYPE_BYTES[type], ...whole.strides.slice(1)] };
  };
  const codes = (offsetBytes: number, columns: number) =>
    at(offsetBytes, dtype, storedColumns(dtype, columns));
  const scales = (offsetBytes: number, columns: number) =>
    scaleGroups(dtype, columns) > 0 ? at(offsetBytes, 'bf16', scaleGroups(dtype, columns)) : null;
  const [keys, keyScales] = [codes(0, keyDim), scales(scalesAt, keyDim)];
  if (!valuesInKeys) {
    const [values, valueScales] = [codes(valuesAt, valueDim), scales(valueScalesAt, valueDim)];
    return { cache, keys, values, keyScales, valueScales };
  }
  const values = firstColumns(keys, storedColumns(dtype, valueDim));
  const valueScales = keyScales && firstColumns(keyScales, scaleGroups(dtype, valueDim));
  return { cache, keys, values, keyScales, valueScales };
}

function firstColumns(whole: Tensor, columns: number): Tensor {
  return { ...whole, shape: [...whole.shape.slice(0, -1), columns] };
}
