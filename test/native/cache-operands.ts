// Caches of every type for tests: pages of any content, and what no token may look at.

import { type KvDType, scaleGroups, storedColumns } from '../../offload/model/kv-type.js';
import { type BlockCache, cacheTensors, type Tensor } from '../../offload/port/ops.js';
import type { Workbench } from './workbench.js';

export const KV_TYPES: readonly KvDType[] = ['f32', 'f16', 'bf16', 'e4m3', 'i8', 'u8'];

export interface CacheDimensions {
  readonly pages: number;
  readonly kvHeads: number;
  readonly pageTokens: number;
  readonly depth: number;
  /** Default `depth`. */
  readonly valueDepth?: number;
  /** Values are the first ones of their keys. */
  readonly inKeys?: boolean;
}

/** Pages of any content, as no kv_store needs to have made it. */
export function filledCache(
  bench: Workbench,
  kvType: KvDType,
  { pages, kvHeads, pageTokens, depth, valueDepth = depth, inKeys = false }: CacheDimensions,
): BlockCache {
  const rows = [pages, kvHeads, pageTokens];
  const first = (whole: Tensor, columns: number): Tensor => ({ ...whole, shape: [...rows, columns] });
  if (scaleGroups(kvType, depth) === 0) {
    const floats = (columns: number) => bench.activation([...rows, columns], 1, kvType);
    const keys = floats(depth);
    const values = inKeys ? first(keys, valueDepth) : floats(valueDepth);
    return { keys, values, keyScales: null, valueScales: null };
  }
  const { largest, code } = CODES[kvType] ?? { largest: 1, code: () => 0 };
  const codes = (of: number) => {
    const columns = storedColumns(kvType, of);
    return bench.memory.fill(bench.activation([...rows, columns], 1, kvType), () => code(bench));
  };
  const scales = (of: number) =>
    bench.memory.fill(
      bench.activation([...rows, scaleGroups(kvType, of)], 1, 'bf16'),
      () => (0.5 + bench.random()) / largest,
    );
  const [keys, keyScales] = [codes(depth), scales(depth)];
  if (!inKeys) return { keys, values: codes(valueDepth), keyScales, valueScales: scales(valueDepth) };
  const values = first(keys, storedColumns(kvType, valueDepth));
  return { keys, values, keyScales, valueScales: first(keyScales, scaleGroups(kvType, valueDepth)) };
}

const CODES: Readonly<Record<string, { largest: number; code: (bench: Workbench) => number }>> = {
  e4m3: { largest: 448, code: (bench) => bench.normal() * 200 },
  i8: { largest: 127, code: (bench) => bench.int(255) - 127 },
  u8: { largest: 7, code: (bench) => bench.int(15) + 1 + 16 * (bench.int(15) + 1) },
};

/** Puts NaN where no token may look: in the scales of codes, which have none themselves. */
export function spoil(
  bench: Workbench,
  cache: BlockCache,
  isSpoilt: (page: number, offset: number) => boolean,
): void {
  const tensors = cacheTensors(cache).filter(({ dtype }) => !cache.keyScales || dtype === 'bf16');
  for (const tensor of tensors) {
    const [kvHeads = 0, pageTokens = 0, columns = 0] = tensor.shape.slice(1);
    const before = bench.memory.read(tensor);
    bench.memory.fill(tensor, (i) => {
      const row = Math.floor(i / columns);
      const page = Math.floor(row / pageTokens / kvHeads);
      return isSpoilt(page, row % pageTokens) ? Number.NaN : (before[i] ?? 0);
    });
  }
}
