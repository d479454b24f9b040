// Blocks that see only the latest tokens have fewer pages: how many, what that saves, and how many more texts fit.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { CacheSpec } from '../../offload/index.js';
import { GiB, type ModelSpec, makePlan, type Plan, present } from '../../offload/index.js';
import { findLargestBatch } from '../../src/engine/largest-batch.js';
import { shapeModel } from '../../src/engine/shape.js';

function shape(name: string): ModelSpec {
  const path = fileURLToPath(new URL(`../../configs/models/${name}.json`, import.meta.url));
  return shapeModel(JSON.parse(readFileSync(path, 'utf8')), path).model;
}

function planned(model: ModelSpec, sequences: number, dramBudgetBytes = 2000 * GiB): Plan {
  const workload = {
    sequences,
    contextTokens: 32_768,
    promptTokens: sequences * 32_000,
    output: 'tokens',
  } as const;
  return makePlan(model, workload, {
    offload: 'nvme',
    dramBudgetBytes,
    dramBudgetName: '--dram_memory',
    deviceCount: 1,
    computesInPlace: false,
    microBatchTokens: 2048,
    kvOffload: true,
  });
}

/** As if every block saw all of its context. */
function withoutHorizons(model: ModelSpec): ModelSpec {
  const caches = model.caches.map((cache): CacheSpec => {
    if (cache.kind !== 'paged') return cache;
    const { windowTokens: _, chunkTokens: __, ...whole } = cache;
    return whole;
  });
  return { ...model, caches };
}

const cacheBytes = ({ terms }: Plan) =>
  present(
    terms.find(({ name }) => name === 'key-value cache'),
    'key-value cache',
  ).bytes;

/** Pages of 16 tokens for 16 texts, and for 2,048 new tokens of as many of them as a micro-batch has. */
describe.each([
  // Name, blocks that see everything, others, pages of a text in these, bytes of a page in one block.
  ['gpt-oss-120b', 18, 18, 9, 2 * 8 * 64 * 16 * 4],
  ['gemma-3-27b', 10, 52, 65, 2 * 16 * 128 * 16 * 4],
  ['llama-4-scout', 12, 36, 513, 2 * 8 * 128 * 16 * 4],
] as const)('%s', (name, whole, others, pagesEach, pageBytes) => {
  const model = shape(name);

  it('keeps the pages that later tokens read, and those of one micro-batch', () => {
    const { kvPages, horizons, microBatchSequences } = planned(model, 16);
    const newPages = Math.ceil((2048 + microBatchSequences * 14) / 16);
    expect(kvPages).toBe(16 * 2048);
    expect(horizons.map(({ pages }) => pages)).toEqual([16 * pagesEach + newPages]);
    const [{ pages } = { pages: 0 }] = horizons;
    expect(cacheBytes(planned(model, 16))).toBe((whole * kvPages + others * pages) * pageBytes);
    expect(cacheBytes(planned(withoutHorizons(model), 16))).toBe((whole + others) * kvPages * pageBytes);
  });

  it('has room for more texts', () => {
    const most = (of: ModelSpec) => findLargestBatch((batch) => planned(of, batch, 200 * GiB), 128).sequences;
    expect(most(model)).toBeGreaterThan(1.5 * most(withoutHorizons(model)));
  });

  it('has one table where texts are no longer than what every block sees', () => {
    const workload = { sequences: 4, contextTokens: 120, promptTokens: 400, output: 'tokens' } as const;
    const options = {
      offload: 'nvme',
      dramBudgetBytes: 2000 * GiB,
      dramBudgetName: '--dram_memory',
      deviceCount: 1,
      computesInPlace: true,
    } as const;
    expect(makePlan(model, workload, options).horizons).toEqual([]);
  });
});
