// Caches of every type for tests: pages of any content, and what no token may look at.

import { type KvDType, scaleGroups } from '../../offload/model/kv-type.js';
import { type BlockCache, cacheTensors } from '../../offload/port/ops.js';
import type { Workbench } from './workbench.js';

export const KV_TYPES: readonly KvDType[] = ['f32', 'f16', 'bf16', 'e4m3', 'i8', 'u8'];

/** Pages of any content, as no kv_store needs to have made it. */
export function filledCache(
  bench: Workbench,
  kvType: KvDType,
  [pages, kvHeads, pageTokens, depth]: readonly [number, number, number, number],
): BlockCache {
  const rows = [pages, kvHeads, pageTokens];
  const groups = scaleGroups(kvType, depth);
  if (groups === 0) {
    const floats = () => bench.activation([...rows, depth], 1, kvType);
    return { keys: floats(), values: floats(), keyScales: null, valueScales: null };
  }
  const { largest, code } = CODES[kvType] ?? { largest: 1, code: () => 0 };
  const codes = () => {
    const columns = kvType === 'u8' ? depth / 2 : depth;
    return bench.memory.fill(bench.activation([...rows, columns], 1, kvType), () => code(bench));
  };
  const scales = () =>
    bench.memory.fill(bench.activation([...rows, groups], 1, 'bf16'), () => (0.5 + bench.random()) / largest);
  return { keys: codes(), values: codes(), keyScales: scales(), valueScales: scales() };
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
  const tensors = cacheTensors(cache).slice(cache.keyScales ? 2 : 0);
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
