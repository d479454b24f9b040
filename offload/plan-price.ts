// What a plan's job takes at a GPU's usual rates: how the planner compares plans. It predicts nothing; predict.ts does.

import { elementCount } from './dtype.js';
import { ForwardWalk } from './forward-walk.js';
import { blockPageBytes, PAGE_TOKENS, pagesFor } from './kv-cache.js';
import type { LayerSpec } from './layout.js';
import type { ModelSpec } from './model.js';
import { type ComputeRates, opMs, type SliceShape } from './op-cost.js';
import type { Tier, Workload } from './plan.js';
import type { Sizes, Sizing } from './plan-sizes.js';
import type { ProductRates } from './profile.js';

/**
 * Of one H100 behind PCIe 5, measured. Only proportions matter here, and those of other GPUs and links are near enough;
 * a plan must not depend on what is measured at the moment.
 */
const LINK_BYTES_PER_SECOND = 54.5e9;
const DRIVE_BYTES_PER_SECOND = 2e9;
/** What a copy costs beside its bytes: 49.3 GB/s in pieces of 4 MiB, 38.4 in pieces of 1 MiB. */
const COPY_MS = 0.008;
/** Handing a buffer for keys and values from stream to stream. */
const TURN_MS = 0.02;
/** Of what is hidden, how much still shows. */
const HIDDEN_SHARE = 0.05;
const PRODUCT_POINTS: ProductRates['points'] = [
  { tokens: 1, flopsPerSecond: 2.8e12 },
  { tokens: 32, flopsPerSecond: 89e12 },
  { tokens: 256, flopsPerSecond: 602e12 },
  { tokens: 2048, flopsPerSecond: 797e12 },
  { tokens: 8192, flopsPerSecond: 773e12 },
];
const COMPUTE: ComputeRates = {
  memoryBytesPerSecond: 2.4e12,
  peakFlopsPerSecond: 797e12,
  products: [
    { weightType: 'bf16', points: PRODUCT_POINTS },
    {
      weightType: 'f32',
      points: PRODUCT_POINTS.map((p) => ({ ...p, flopsPerSecond: p.flopsPerSecond / 2 })),
    },
  ],
  attentionBytesPerSecond: 2e12,
  attentionFlopsPerSecond: 300e12,
  elementwiseBytesPerSecond: 2.4e12,
  launchMs: 0.005,
  passMs: 0.5,
  inHalves: true,
};

/** Milliseconds of one micro-batch in all blocks, by model and shape: plans differ in few shapes. */
const known = new WeakMap<ModelSpec, Map<string, number>>();

/** Milliseconds until all sequences have their new tokens, prompts included, once everything rests where it is to. */
export function jobMs(sizing: Sizing, sizes: Sizes, tiers: readonly Tier[]): number {
  const { workload } = sizing;
  const prompt = Math.max(1, Math.round(workload.promptTokens / workload.sequences));
  const steps = Math.max(0, newTokensOf(workload, prompt) - 1);
  const context = prompt + Math.floor(steps / 2);
  return prefillMs(sizing, sizes, tiers, prompt) + steps * decodeMs(sizing, sizes, tiers, context);
}

function newTokensOf({ output, newTokens, contextTokens }: Workload, prompt: number): number {
  return output === 'tokens' ? (newTokens ?? Math.max(1, contextTokens - prompt)) : 1;
}

function prefillMs(sizing: Sizing, sizes: Sizes, tiers: readonly Tier[], prompt: number): number {
  const { promptTokens } = sizing.workload;
  const most = Math.min(sizes.microBatchTokens, sizes.microBatchSequences * prompt);
  const microBatches = Math.ceil(promptTokens / most);
  const tokens = Math.ceil(promptTokens / microBatches);
  const passes = passesFor(sizing.workload, sizes.passTokens);
  const each = Math.min(prompt, tokens);
  const slices = Array.from({ length: Math.round(tokens / each) }, () => ({
    tokens: each,
    startPosition: 0,
  }));
  const { linkMs, driveMs } = weightsMs(sizing, tiers);
  // Keys and values go down the link while weights come up.
  const storeMs = sizes.kvBuffers.count > 0 ? copyMs(promptTokens * kvTokenBytes(sizing)) : 0;
  const computeMs = passes * COMPUTE.passMs + microBatches * blocksMs(sizing, tokens, slices);
  return overlapped(computeMs, passes * linkMs, passes * driveMs, storeMs);
}

/** New tokens of those whose prompts are through take room in the passes that follow. */
function passesFor({ promptTokens, sequences }: Workload, passTokens: number): number {
  let passes = Math.ceil(promptTokens / passTokens);
  while (passes * passTokens < promptTokens + (sequences * (passes - 1)) / 2) passes++;
  return passes;
}

/** What runs beside the longest of them is hidden, but for its ends and what it disturbs. */
function overlapped(...ms: readonly number[]): number {
  const longest = Math.max(...ms);
  const others = ms.reduce((sum, one) => sum + one, 0) - longest;
  return longest + HIDDEN_SHARE * others;
}

/** One step with half of the new tokens there. */
function decodeMs(sizing: Sizing, sizes: Sizes, tiers: readonly Tier[], context: number): number {
  const { sequences } = sizing.workload;
  const microBatches = Math.ceil(sequences / sizes.microBatchSequences);
  const tokens = Math.ceil(sequences / microBatches);
  const slices = Array.from({ length: tokens }, () => ({ tokens: 1, startPosition: context }));
  const { linkMs, driveMs } = weightsMs(sizing, tiers);
  const computeMs = COMPUTE.passMs + microBatches * blocksMs(sizing, tokens, slices);
  let kvMs = 0;
  if (sizes.kvBuffers.count > 0) {
    const blocks = sizing.model.blocks.length;
    const { pageTokens = PAGE_TOKENS } = sizing.options;
    const bytes =
      sequences * pagesFor(context, sizing.options.pageTokens) * pageTokens * kvTokenBytes(sizing);
    kvMs = copyMs(bytes) + blocks * (sequences * COPY_MS + microBatches * TURN_MS);
  }
  return overlapped(computeMs, linkMs + kvMs, driveMs);
}

/** Of the layers that do not rest on the device, for one pass. */
function weightsMs(
  { options, hostLayerBytes, deviceLayerBytes }: Sizing,
  tiers: readonly Tier[],
): { linkMs: number; driveMs: number } {
  let [linkBytes, driveBytes] = [0, 0];
  tiers.forEach((tier, index) => {
    if (tier !== 'gpu') linkBytes += deviceLayerBytes[index] ?? 0;
    if (tier === 'nvme') driveBytes += hostLayerBytes[index] ?? 0;
  });
  return {
    linkMs: copyMs(linkBytes / options.deviceCount),
    driveMs: (driveBytes / DRIVE_BYTES_PER_SECOND) * 1e3,
  };
}

function copyMs(bytes: number): number {
  return (bytes / LINK_BYTES_PER_SECOND) * 1e3;
}

/** In all blocks. */
function kvTokenBytes({ model: { blocks, kvHeads, headDim }, activationType: dtype }: Sizing): number {
  return (blocks.length * blockPageBytes({ kvHeads, headDim, dtype })) / PAGE_TOKENS;
}

function blocksMs({ model, activationType }: Sizing, tokens: number, slices: readonly SliceShape[]): number {
  const [first] = slices;
  const key = `${activationType} ${tokens} ${slices.length} ${first?.tokens} ${first?.startPosition}`;
  const times = known.get(model) ?? new Map<string, number>();
  known.set(model, times);
  const before = times.get(key);
  if (before !== undefined) return before;
  let ms = 0;
  const walk = new ForwardWalk(model, activationType, (op) => {
    ms += opMs(op, slices, COMPUTE);
  });
  let all = 0;
  for (const { index, count } of kindsOf(model)) {
    ms = 0;
    walk.block(index, tokens);
    all += count * ms;
  }
  times.set(key, all);
  return all;
}

const knownKinds = new WeakMap<ModelSpec, readonly { readonly index: number; readonly count: number }[]>();

/** Blocks of the same bulk cost about the same: the first of each kind, and how many there are. */
function kindsOf(model: ModelSpec): readonly { readonly index: number; readonly count: number }[] {
  const before = knownKinds.get(model);
  if (before) return before;
  const kinds = new Map<string, { index: number; count: number }>();
  model.blocks.forEach((block, index) => {
    const key = `${block.weights.length} ${elementsOf(block)}`;
    const kind = kinds.get(key);
    if (kind) kind.count++;
    else kinds.set(key, { index, count: 1 });
  });
  const found = [...kinds.values()];
  knownKinds.set(model, found);
  return found;
}

function elementsOf({ weights }: LayerSpec): number {
  return weights.reduce((sum, { shape }) => sum + elementCount(shape), 0);
}
