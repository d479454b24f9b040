// Pages of cached keys and values: how large they are, and where they lie in the memory that holds all of them.

import { DTYPE_BYTES, type DType } from '../port/dtype.js';
import type { Memory } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import type { BlockCache } from './forward-ops.js';

/** Tokens in a page, unless a plan says otherwise. Sequences of different lengths waste less than one page each. */
export const PAGE_TOKENS = 16;

export interface KvShape {
  readonly blocks: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** The type of keys and values, which is the activations'. */
  readonly dtype: DType;
  /** Tokens in a page; default PAGE_TOKENS. */
  readonly pageTokens?: number;
}

/** Bytes of one page in all blocks: blocks · 2 (keys, values) · kvHeads · pageTokens · headDim · element bytes. */
export function pageBytes(shape: KvShape): number {
  return shape.blocks * blockPageBytes(shape);
}

/** Bytes of one page in one block, keys and values. */
export function blockPageBytes(shape: Omit<KvShape, 'blocks'>): number {
  const { kvHeads, headDim, dtype, pageTokens = PAGE_TOKENS } = shape;
  return 2 * kvHeads * pageTokens * headDim * DTYPE_BYTES[dtype];
}

export function pagesFor(tokens: number, pageTokens = PAGE_TOKENS): number {
  return Math.ceil(tokens / pageTokens);
}

/**
 * The cache tensors of one block inside the memory that holds all of them, block after block. The keys of a page lie
 * before its values, so that consecutive pages are one run of bytes.
 */
export function blockCache(
  memory: Memory,
  shape: KvShape,
  pageCount: number,
  blockIndex: number,
): BlockCache {
  const { kvHeads, headDim, dtype, pageTokens = PAGE_TOKENS } = shape;
  const half = kvHeads * pageTokens * headDim;
  const strides = [2 * half, pageTokens * headDim, headDim, 1];
  const at = (offsetBytes: number) => ({
    ...tensor(memory, offsetBytes, dtype, [pageCount, kvHeads, pageTokens, headDim]),
    strides,
  });
  const start = blockIndex * pageCount * blockPageBytes(shape);
  return { keys: at(start), values: at(start + half * DTYPE_BYTES[dtype]) };
}
