// What a plan's job takes at usual rates: how plans are compared. It predicts nothing; predict.ts does.

import { present } from '../errors.js';
import { ForwardWalk } from '../model/forward-walk.js';
import { pagesOfHorizon } from '../model/horizon.js';
import { cacheBytes, PAGE_TOKENS, pageBytes, pagesFor } from '../model/kv-cache.js';
import type { ModelSpec } from '../model/model.js';
import { kindsOf } from './block-kinds.js';
import type { Draft } from './draft.js';
import { cutOf, hostBytesPerSecond, leavesRows } from './host-rows.js';
import type { PlanInput, Workload } from './input.js';
import { type ComputeRates, opMs, type SliceShape } from './op-cost.js';
import type { Sizes } from './plan.js';
import type { ProductRates } from './profile.js';
import { broughtBytes, choosesExperts, readBytes, shareGain } from './slots.js';
import { partCount } from './transfer.js';

/** What a drive brings: of GPUs' hosts and of others alike. */
export const DRIVE_BYTES_PER_SECOND = 2e9;
/** What a GPU copies from its peers, measured with NVLink. */
export const PEER_BYTES_PER_SECOND = 350e9;
/** What a GPU pulls from DRAM. */
export const LINK_BYTES_PER_SECOND = 54.5e9;
/** How much still shows of what is hidden. */
const HIDDEN_SHARE = 0.05;

/** What is reckoned with. Only proportions matter; a plan must not depend on what is measured at the moment. */
interface Rates {
  /** Undefined where devices compute in place. */
  readonly link: LinkRates | undefined;
  readonly compute: ComputeRates;
}

interface LinkRates {
  readonly bytesPerSecond: number;
  /** What a copy costs beside its bytes. */
  readonly copyMs: number;
  /** Handing a buffer for keys and values from stream to stream. */
  readonly turnMs: number;
}

/** One H100 behind PCIe 5, measured; proportions of other GPUs and links are near enough. */
const GPU: Rates = {
  // 49.3 GB/s in pieces of 4 MiB, 38.4 in pieces of 1 MiB.
  link: { bytesPerSecond: LINK_BYTES_PER_SECOND, copyMs: 0.008, turnMs: 0.02 },
  compute: {
    memoryBytesPerSecond: 2.4e12,
    peakFlopsPerSecond: 797e12,
    ...products([
      [1, 2.8e12],
      [32, 89e12],
      [256, 602e12],
      [2048, 797e12],
      [8192, 773e12],
    ]),
    attentionBytesPerSecond: 2e12,
    attentionFlopsPerSecond: 300e12,
    elementwiseBytesPerSecond: 2.4e12,
    launchMs: 0.005,
    passMs: 0.5,
    inHalves: true,
  },
};

/**
 * A processor of 16 cores with AVX-512. On a slower one compute hides more of the drive, so that a batch that is large
 * enough here is large enough there.
 */
const PROCESSOR: Rates = {
  link: undefined,
  compute: {
    memoryBytesPerSecond: 100e9,
    peakFlopsPerSecond: 900e9,
    ...products([
      [1, 95e9],
      [4, 290e9],
      [16, 520e9],
      [64, 700e9],
      [256, 800e9],
      [512, 850e9],
    ]),
    attentionBytesPerSecond: 60e9,
    attentionFlopsPerSecond: 300e9,
    elementwiseBytesPerSecond: 50e9,
    launchMs: 0.02,
    passMs: 0.3,
    inHalves: false,
  },
};

/** Weights of four bytes go at half the rate of those of two. */
function products(points: readonly (readonly [number, number])[]): Pick<ComputeRates, 'products'> {
  const rates = (weightType: 'bf16' | 'f32', share: number): ProductRates => ({
    weightType,
    points: points.map(([tokens, flopsPerSecond]) => ({ tokens, flopsPerSecond: share * flopsPerSecond })),
  });
  return { products: [rates('bf16', 1), rates('f32', 0.5)] };
}

export function ratesFor({ options }: PlanInput): Rates {
  return options.computesInPlace ? PROCESSOR : GPU;
}

/** Milliseconds of one micro-batch in all blocks, by model and shape: plans differ in few shapes. */
const known = new WeakMap<ModelSpec, Map<string, number>>();

/** Milliseconds until all sequences have their new tokens, prompts included, once everything rests where it is to. */
export function jobMs(input: PlanInput, draft: Draft): number {
  const { workload } = input;
  const prompt = Math.max(1, Math.round(workload.promptTokens / workload.sequences));
  const steps = Math.max(0, newTokensOf(workload, prompt) - 1);
  const context = prompt + Math.floor(steps / 2);
  return prefillMs(input, draft, prompt) + steps * decodeMs(input, draft, context);
}

export function newTokensOf({ output, newTokens, contextTokens }: Workload, prompt: number): number {
  return output === 'tokens' ? (newTokens ?? Math.max(1, contextTokens - prompt)) : 1;
}

function prefillMs(input: PlanInput, draft: Draft, prompt: number): number {
  const { sizes } = draft;
  const { promptTokens } = input.workload;
  const most = Math.min(sizes.microBatchTokens, sizes.microBatchSequences * prompt);
  const microBatches = Math.ceil(promptTokens / most);
  const tokens = Math.ceil(promptTokens / microBatches);
  const passes = passesFor(input.workload, sizes.passTokens);
  const each = Math.min(prompt, tokens);
  const slices = Array.from({ length: Math.round(tokens / each) }, () => ({
    tokens: each,
    startPosition: 0,
  }));
  const { linkMs, driveMs } = weightsMs(input, draft);
  const bringMs = broughtMs(input, draft, { microBatches, tokens });
  if (bringMs !== undefined)
    return bringMs + ratesFor(input).compute.passMs + blocksMs(input, tokens, slices);
  // Keys and values go down the link while weights come up.
  const storeMs = sizes.kvBuffers.count > 0 ? copyMs(promptTokens * kvTokenBytes(input), ratesFor(input)) : 0;
  const computeMs = passes * ratesFor(input).compute.passMs + microBatches * blocksMs(input, tokens, slices);
  if (takesTurns(input, draft)) return computeMs + passes * driveMs;
  return overlapped(computeMs, passes * linkMs, passes * driveMs, storeMs);
}

/** New tokens of those whose prompts are through take room in the passes that follow. */
function passesFor({ promptTokens, sequences }: Workload, passTokens: number): number {
  let passes = Math.ceil(promptTokens / passTokens);
  while (passes * passTokens < promptTokens + (sequences * (passes - 1)) / 2) passes++;
  return passes;
}

/** With one buffer that compute works in, the drive waits for compute and compute for the drive. */
function takesTurns({ options }: PlanInput, { hostWindowLayers }: Draft): boolean {
  return options.computesInPlace && hostWindowLayers === 1;
}

/** What runs beside the longest of them is hidden, but for its ends and what it disturbs. */
function overlapped(...ms: readonly number[]): number {
  const longest = Math.max(...ms);
  const others = ms.reduce((sum, one) => sum + one, 0) - longest;
  return longest + HIDDEN_SHARE * others;
}

/** One step with half of the new tokens there. */
function decodeMs(input: PlanInput, draft: Draft, context: number): number {
  const { sizes } = draft;
  const { sequences } = input.workload;
  const microBatches = Math.ceil(sequences / sizes.microBatchSequences);
  const tokens = Math.ceil(sequences / microBatches);
  const slices = Array.from({ length: tokens }, () => ({ tokens: 1, startPosition: context }));
  const leaves = microBatches === 1 && leavesRows(input.cuttable?.rows, [tokens]);
  const { linkMs, driveMs, hostMs } = weightsMs(input, draft, leaves);
  const rates = ratesFor(input);
  const computeMs = rates.compute.passMs + microBatches * blocksMs(input, tokens, slices) + hostMs;
  let kvMs = 0;
  if (sizes.kvBuffers.count > 0 && rates.link) {
    const blocks = input.model.blocks.length;
    const bytes = sequences * cachedBytes(input, sizes, context);
    const { copyMs: eachMs, turnMs } = rates.link;
    kvMs = copyMs(bytes, rates) + blocks * (sequences * eachMs + microBatches * turnMs);
  }
  const bringMs = broughtMs(input, draft, { microBatches, tokens });
  if (bringMs !== undefined) return bringMs + overlapped(computeMs, kvMs);
  if (takesTurns(input, draft)) return computeMs + driveMs;
  return overlapped(computeMs, linkMs + kvMs, driveMs);
}

/** What chosen experts cost link and drive, while nothing is computed; undefined where whole layers pass by. */
function broughtMs(
  input: PlanInput,
  { slots }: Draft,
  { microBatches, tokens }: { readonly microBatches: number; readonly tokens: number },
): number | undefined {
  if (!slots || microBatches > 1 || !choosesExperts(slots, [tokens])) return undefined;
  const bytes = input.experts.reduce((sum, experts) => sum + broughtBytes({ experts }, slots, tokens), 0);
  const driveMs = (read: number) => (read / DRIVE_BYTES_PER_SECOND) * 1e3;
  if (input.options.computesInPlace) return driveMs(bytes);
  const read = input.experts.reduce((sum, experts) => sum + readBytes({ experts }, slots, tokens), 0);
  return overlapped(copyMs(bytes, ratesFor(input)) / shareGain(slots, tokens), driveMs(read));
}

/**
 * What the layers that do not rest on the device cost link and drive in one pass, and the host where rows are left to it: the device
 * waits for that.
 */
function weightsMs(
  input: PlanInput,
  { onDevices, inShards, inDram, slots }: Draft,
  leavesRows = false,
): { readonly linkMs: number; readonly driveMs: number; readonly hostMs: number } {
  const { options, layers, cuttable, hostLayerBytes, deviceLayerBytes } = input;
  let [linkBytes, driveBytes, hostBytes, gatheredBytes, next] = [0, 0, 0, 0, 0];
  onDevices.forEach((resident, index) => {
    if (inShards?.[index]) gatheredBytes += deviceLayerBytes[index] ?? 0;
    if (resident) return;
    linkBytes += deviceLayerBytes[index] ?? 0;
    if (!inDram[next++]) driveBytes += hostLayerBytes[index] ?? 0;
    else if (leavesRows && cuttable && !slots) {
      const { layout } = present(layers[index], 'layer');
      const { stayingBytes } = cutOf({ layout, cuttable: cuttable.keys[index] }, cuttable.rows.share);
      linkBytes -= stayingBytes;
      hostBytes += stayingBytes;
    }
  });
  return {
    linkMs: Math.max(
      copyMs(linkBytes / partCount(input.transfer, options.deviceCount), ratesFor(input)),
      ((gatheredBytes * (1 - 1 / options.deviceCount)) / PEER_BYTES_PER_SECOND) * 1e3,
    ),
    driveMs: (driveBytes / DRIVE_BYTES_PER_SECOND) * 1e3,
    hostMs: (hostBytes / hostBytesPerSecond(options)) * 1e3,
  };
}

/** Nothing where there is no link to go over. */
function copyMs(bytes: number, { link }: Rates): number {
  return link ? (bytes / link.bytesPerSecond) * 1e3 : 0;
}

/** In all blocks. */
export function kvTokenBytes({ model: { caches }, kvType: dtype }: PlanInput): number {
  return pageBytes({ caches, dtype }) / PAGE_TOKENS;
}

/** What the latest token of a context reads, in all blocks. */
function cachedBytes(input: PlanInput, { horizons }: Sizes, context: number): number {
  const { options, model, kvType: dtype } = input;
  const { pageTokens = PAGE_TOKENS } = options;
  const most = pagesFor(context, pageTokens);
  const latest = horizons.map((one) => ({
    ...one,
    pages: Math.min(most, pagesOfHorizon(one.horizon, pageTokens)),
  }));
  return cacheBytes({ caches: model.caches, dtype, pageTokens }, { kvPages: most, horizons: latest });
}

function blocksMs(input: PlanInput, tokens: number, slices: readonly SliceShape[]): number {
  const { model, activationType, kvType, options } = input;
  const { compute } = ratesFor(input);
  const [first] = slices;
  const key = `${options.computesInPlace} ${activationType} ${kvType} ${tokens} ${slices.length} ${first?.tokens} ${first?.startPosition}`;
  const times = known.get(model) ?? new Map<string, number>();
  known.set(model, times);
  const before = times.get(key);
  if (before !== undefined) return before;
  let ms = 0;
  const walk = new ForwardWalk(model, { activationType, kvType }, (op) => {
    ms += opMs(op, slices, compute);
  });
  let all = 0;
  for (const { index, alike } of kindsOf(model)) {
    ms = 0;
    walk.block(index, tokens);
    all += alike.length * ms;
  }
  times.set(key, all);
  return all;
}
