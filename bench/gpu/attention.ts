// How near to the rate of copies does attention read keys and values as they are stored, and what do prompts pay for it?
//
// node dist/bench/gpu/attention.js [--heads 56] [--kv_heads 56] [--head_dim 128] [--type bf16] [--value_dim 128]
//   [--values_in_keys]
//
// Decoding reads each stored byte once, so its limit is the memory: what it reads of keys, values and scales a second,
// beside what copies within the device's memory read and write. A prompt's products cost the same whatever is stored, so its
// limit is the same prompt over a cache of the activations' type. The heads are OPT-30B's by default; DeepSeek-V3's latent
// attention is --heads 128 --kv_heads 1 --head_dim 576 --value_dim 512 --values_in_keys.

import { parseArgs } from 'node:util';
import { CudaBackend, MiB, present } from '../../offload/index.js';
import { GPU_SIZES } from '../../offload/measure/bench-sizes.js';
import { KernelBench, RUNS } from '../../offload/measure/kernel-bench.js';
import type { CacheSpec } from '../../offload/model/cache-spec.js';
import { layerCaches, PAGE_TOKENS, pageBytes } from '../../offload/model/kv-cache.js';
import type { KvDType } from '../../offload/model/kv-type.js';
import { DTYPE_BYTES, elementCount } from '../../offload/port/dtype.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import { median, printResult } from '../common.js';

const { values } = parseArgs({
  options: {
    heads: { type: 'string', default: '56' },
    kv_heads: { type: 'string', default: '56' },
    head_dim: { type: 'string', default: '128' },
    type: { type: 'string', default: 'bf16' },
    value_dim: { type: 'string' },
    values_in_keys: { type: 'boolean', default: false },
  },
});
const [heads, kvHeads, headDim] = [values.heads, values.kv_heads, values.head_dim].map(Number) as [
  number,
  number,
  number,
];
const valueDim = Number(values.value_dim ?? headDim);
const kept = {
  kind: 'paged',
  kvHeads,
  keyDim: headDim,
  valueDim,
  valuesInKeys: values.values_in_keys,
} as const satisfies CacheSpec;
const type = values.type === 'f16' ? 'f16' : values.type === 'f32' ? 'f32' : 'bf16';
const KV_TYPES: readonly KvDType[] = [...new Set<KvDType>([type, 'bf16', 'f16', 'e4m3', 'i8', 'u8'])];
/** Sequences, new tokens of each, and its context with them. */
const WORK = [
  { name: 'batch 48 at 544', sequences: 48, tokens: 1, context: 544 },
  { name: 'batch 64 at 4096', sequences: 64, tokens: 1, context: 4096 },
  { name: 'batch 1 at 16384', sequences: 1, tokens: 1, context: 16384 },
  { name: 'prompts 8×512', sequences: 8, tokens: 512, context: 512 },
] as const;

const backend = new CudaBackend();
const device = present(backend.devices[0], 'device');
const bench = new KernelBench(backend, device, {
  ...GPU_SIZES,
  coldBytes: 4096 * MiB,
  scratchBytes: 2048 * MiB,
});
const copyBytesPerSecond = await copyRate();
printResult('copies in the device’s memory', `${(copyBytesPerSecond / 1e12).toFixed(2)} TB/s`, {
  copyBytesPerSecond,
});
for (const work of WORK) {
  let ownMs = 0;
  for (const kvType of KV_TYPES) {
    const { attentionMs, storeMs, bytes } = await measure(work, kvType);
    if (kvType === type) ownMs = attentionMs;
    const share = bytes / (attentionMs / 1e3) / copyBytesPerSecond;
    const beside = ` (${(attentionMs / ownMs).toFixed(2)} of ${type}'s)`;
    const rate = work.tokens === 1 ? `, ${(share * 100).toFixed(1)} % of copies in stored bytes` : '';
    printResult(
      `attention of ${type} over ${kvType}, ${work.name}`,
      `${attentionMs.toFixed(4)} ms${beside}${rate}; stored in ${storeMs.toFixed(4)} ms`,
      { ...values, ...work, kvType, attentionMs, storeMs, bytes, share, ofOwn: attentionMs / ownMs },
    );
  }
}
await backend.close();

/** Medians of operations that take block after block of the cache, so that none finds its own in a cache of the GPU. */
async function measure({ sequences, tokens, context }: (typeof WORK)[number], kvType: KvDType) {
  const pagesEach = context / PAGE_TOKENS;
  const pageCount = sequences * pagesEach;
  const bytes = pageCount * pageBytes({ caches: [kept], dtype: kvType });
  const blocks = Math.max(1, Math.floor(bench.sizes.coldBytes / bytes));
  const range = (length: number) => Array.from({ length }, (_, i) => i);
  const all = range(sequences * tokens);
  const positions = all.map((t) => context - tokens + (t % tokens));
  const [table, pages, slots, places] = bench.ints(
    {
      shape: [sequences, 4],
      values: range(sequences).flatMap((s) => [s * tokens, tokens, context, s * pagesEach]),
    },
    { shape: [pageCount], values: range(pageCount) },
    {
      shape: [all.length],
      values: all.map((t) => Math.floor(t / tokens) * context + (positions[t] ?? 0)),
    },
    { shape: [all.length], values: positions },
  ) as [Tensor, Tensor, Tensor, Tensor];
  let placed = 0;
  const scratch = (count: number, dim: number): Tensor => {
    const made = bench.at(placed, [all.length, count, dim], type);
    placed += Math.ceil((elementCount(made.shape) * DTYPE_BYTES[type]) / 256) * 256;
    return made;
  };
  const [q, out, k, v] = [
    scratch(heads, headDim),
    scratch(heads, valueDim),
    scratch(kvHeads, headDim),
    scratch(kvHeads, valueDim),
  ] as const;
  let next = 0;
  const shape = { caches: new Array<CacheSpec>(blocks).fill(kept), dtype: kvType };
  const caches = layerCaches(bench.cold, shape, { kvPages: pageCount, horizons: [] });
  const cache = () => present(caches[next++ % blocks], 'a cache');
  const tables = { sequences: table, pages, slots, positions: places, maxContextTokens: context };
  const attentionMs = await bench.medianMs((): Op => {
    return { op: 'attention', out, q, ...cache(), tables, score: { scale: 0.1 } };
  });
  const storeMs = await bench.medianMs(
    (): Op => ({
      op: 'kv_store',
      k,
      v: kept.valuesInKeys ? null : v,
      ...cache(),
      slots,
    }),
  );
  return { attentionMs, storeMs, bytes };
}

/** What copies within the device's memory read and write a second. */
async function copyRate(): Promise<number> {
  const seconds: number[] = [];
  for (let run = 0; run <= RUNS; run++) {
    const bytes = bench.sizes.scratchBytes;
    const start = device.compute.record();
    device.compute.copy(bench.scratch, 0, bench.cold, 0, bytes);
    const end = device.compute.record();
    await end.reached();
    if (run > 0) seconds.push((2 * bytes) / ((end.timeMs - start.timeMs) / 1e3));
  }
  return median(seconds);
}
