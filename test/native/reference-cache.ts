// Keys and values in every type of a cache, in float64 and plain loops: what is stored of them, and what is read again.

import type { BlockCache, Op, Tensor } from '../../offload/port/ops.js';
import { Values, type Written } from './reference-values.js';
import { toEven, toNearestBF16, toNearestE4M3, toNearestF16 } from './short-floats.js';
import type { Bytes } from './tensor-bytes.js';

/** By type of the codes: the largest one. */
const LARGEST: Readonly<Record<string, number>> = { e4m3: 448, i8: 127, u8: 7 };
const FLOATS: Readonly<Record<string, (value: number) => number>> = {
  f32: Math.fround,
  f16: toNearestF16,
  bf16: toNearestBF16,
};

/** Values that share a scale: neighbours of a head. */
function groupSize(codes: Tensor, depth: number): number {
  return codes.dtype === 'u8' && depth % 32 === 0 ? 32 : depth;
}

/** A cached value by page, head, place in the page and dimension. */
export type Cached = (page: number, head: number, offset: number, d: number) => number;

export function cached(codes: Tensor, scales: Tensor | null, depth: number, bytes: Bytes): Cached {
  const stored = new Values(codes, bytes);
  if (!scales) return (page, head, offset, d) => stored.get(page, head, offset, d);
  const factors = new Values(scales, bytes);
  const group = groupSize(codes, depth);
  return (page, head, offset, d) => {
    const nibbles = codes.dtype === 'u8';
    const whole = stored.get(page, head, offset, nibbles ? d >> 1 : d);
    const code = nibbles ? (d % 2 === 0 ? whole & 15 : whole >> 4) - 8 : whole;
    return Math.fround(code * factors.get(page, head, offset, Math.floor(d / group)));
  };
}

export function storedCache(op: Op & { op: 'kv_store' }, bytes: Bytes): Written[] {
  return [
    ...storedHalf(op.k, op.slots, op.keys, op.keyScales, bytes),
    ...(op.v ? storedHalf(op.v, op.slots, op.values, op.valueScales, bytes) : []),
  ];
}

function storedHalf(
  from: Tensor,
  slots: Tensor,
  to: BlockCache['keys'],
  scales: Tensor | null,
  bytes: Bytes,
): Written[] {
  const [x, at, codes] = [new Values(from, bytes), new Values(slots, bytes), new Values(to, bytes)];
  const factors = scales && new Values(scales, bytes);
  const [pageTokens, depth] = [codes.size(2), x.size(2)];
  for (let t = 0; t < x.size(0); t++) {
    const [page, offset] = [Math.floor(at.get(t) / pageTokens), at.get(t) % pageTokens];
    for (let h = 0; h < x.size(1); h++) {
      const head = Array.from({ length: depth }, (_, d) => x.get(t, h, d));
      const put = (value: number, d: number): void => codes.set(value, page, h, offset, d);
      if (!factors) {
        const rounded = FLOATS[to.dtype];
        const kept = !rounded || from.dtype === to.dtype;
        head.map((value) => (kept ? value : finite(rounded(value)))).forEach(put);
        continue;
      }
      const group = groupSize(to, depth);
      const whole = head.flatMap((_, first) => {
        if (first % group !== 0) return [];
        const { scale, shares } = coded(head.slice(first, first + group), LARGEST[to.dtype] ?? 0);
        factors.set(scale, page, h, offset, first / group);
        return shares.map(to.dtype === 'e4m3' ? toNearestE4M3 : toEven);
      });
      if (to.dtype !== 'u8') whole.forEach(put);
      else
        for (let d = 0; d < depth; d += 2) put((whole[d] ?? 0) + 8 + 16 * ((whole[d + 1] ?? 0) + 8), d / 2);
    }
  }
  return factors ? [codes.written, factors.written] : [codes.written];
}

/** The scale of a group as it is stored, and what its values are in units of it. */
function coded(group: readonly number[], most: number): { scale: number; shares: number[] } {
  const largest = Math.max(...group.map(Math.abs));
  const scale = finite(toNearestBF16(Math.fround(largest / most)));
  const share = (value: number) => Math.min(most, Math.max(-most, Math.fround(value / scale)));
  return { scale, shares: group.map((value) => (scale > 0 ? share(value) : 0)) };
}

function finite(value: number): number {
  return Number.isFinite(value) ? value : Number.NaN;
}
