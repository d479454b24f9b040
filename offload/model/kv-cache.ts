// Pages of cached keys and values: how large they are, and where they lie in the memory that holds all of them.

import { DTYPE_BYTES, type DType } from '../port/dtype.js';
import type { BlockCache, Memory, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { roundUp } from '../units.js';
import { type KvDType, scaleGroups, storedColumns } from './kv-type.js';

/** Tokens in a page, unless a plan says otherwise. Sequences of different lengths waste less than one page each. */
export const PAGE_TOKENS = 16;

export interface KvShape {
  readonly blocks: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly dtype: KvDType;
  /** Tokens in a page; default PAGE_TOKENS. */
  readonly pageTokens?: number;
}

type BlockShape = Omit<KvShape, 'blocks'>;

/** Pages that hold scales begin at multiples of it, as kernels' widest loads want it of their codes. */
const CODED_PAGE_ALIGNMENT_BYTES = 16;

/** Bytes of one page in all blocks. */
export function pageBytes(shape: KvShape): number {
  return shape.blocks * blockPageBytes(shape);
}

/**
 * Bytes of one page in one block: 2 (keys, values) · kvHeads · pageTokens · (bytes of a head + 2 per scale), rounded up
 * where there are scales.
 */
export function blockPageBytes(shape: BlockShape): number {
  const { codesBytes, scalesBytes } = halfPage(shape);
  const bytes = 2 * (codesBytes + scalesBytes);
  return scalesBytes > 0 ? roundUp(bytes, CODED_PAGE_ALIGNMENT_BYTES) : bytes;
}

/** Bytes of a page's keys, which are as many as its values'. */
function halfPage(shape: BlockShape): { codesBytes: number; scalesBytes: number } {
  const { kvHeads, headDim, dtype, pageTokens = PAGE_TOKENS } = shape;
  const rows = kvHeads * pageTokens;
  return {
    codesBytes: rows * storedColumns(dtype, headDim) * DTYPE_BYTES[dtype],
    scalesBytes: rows * scaleGroups(dtype, headDim) * DTYPE_BYTES.bf16,
  };
}

export function pagesFor(tokens: number, pageTokens = PAGE_TOKENS): number {
  return Math.ceil(tokens / pageTokens);
}

/**
 * The cache tensors of one block inside the memory that holds all of them, block after block. In a page lie keys, values,
 * scales of the keys and scales of the values, one after the other, so that consecutive pages are one run of bytes.
 */
export function blockCache(
  memory: Memory,
  shape: KvShape,
  pageCount: number,
  blockIndex: number,
): BlockCache {
  const { kvHeads, headDim, dtype, pageTokens = PAGE_TOKENS } = shape;
  const { codesBytes, scalesBytes } = halfPage(shape);
  const each = blockPageBytes(shape);
  const start = blockIndex * pageCount * each;
  const at = (offsetBytes: number, type: DType, columns: number): Tensor => {
    const whole = tensor(memory, start + offsetBytes, type, [pageCount, kvHeads, pageTokens, columns]);
    return { ...whole, strides: [each / DTYPE_BYTES[type], ...whole.strides.slice(1)] };
  };
  const codes = (offsetBytes: number) => at(offsetBytes, dtype, storedColumns(dtype, headDim));
  const groups = scaleGroups(dtype, headDim);
  const scales = (offsetBytes: number) => (groups > 0 ? at(offsetBytes, 'bf16', groups) : null);
  return {
    keys: codes(0),
    values: codes(codesBytes),
    keyScales: scales(2 * codesBytes),
    valueScales: scales(2 * codesBytes + scalesBytes),
  };
}
