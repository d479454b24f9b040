// Decides, before anything is allocated, where each layer rests and how large every buffer is; each size with its reason.

import type { DType } from './dtype.js';
import { OperatingError, present } from './errors.js';
import { type LayerLayout, layoutLayer } from './layout.js';
import { cutHead, type ModelSpec, weightType } from './model.js';
import {
  deviceBuffers,
  keepRowsOfPass,
  microBatchCandidates,
  type Sizes,
  type Sizing,
  workingMemory,
} from './plan-sizes.js';
import { formatBytes } from './units.js';

export type Tier = 'gpu' | 'dram' | 'nvme';

/** `auto`: as much in DRAM as the budget holds, the rest on the drive. */
export type Offload = 'auto' | 'dram' | 'nvme';

/** What is to be computed, as upper bounds. */
export interface Workload {
  /** Sequences that are alive at once. */
  readonly sequences: number;
  /** Prompt and new tokens of the longest sequence. */
  readonly contextTokens: number;
  /** Tokens of all prompts together: what a prefill pass brings at most. */
  readonly promptTokens: number;
  /** `tokens`: the next token per sequence; `nll`: the likelihood of every token; `logits`: rows of logits. */
  readonly output: 'tokens' | 'nll' | 'logits';
  /** Drawing a token looks at all tokens of its sequence: a repetition penalty. */
  readonly history?: boolean;
}

/** What the caller fixes; the rest is the planner's choice. */
export interface PlanOptions {
  readonly offload: Offload;
  readonly dramBudgetBytes: number;
  /** How the budget came about, for messages: `--dram_memory` or `the memory available on this machine`. */
  readonly dramBudgetName: string;
  readonly deviceCount: number;
  readonly computesInPlace: boolean;
  /** The devices take activations in the 16-bit type of a model's weights; default f32 always. */
  readonly halfActivations?: boolean;
  /** Host buffers: how many layers nvme→dram may run ahead. */
  readonly hostWindowLayers?: number;
  /** Device buffers: how many layers dram→gpu may run ahead. */
  readonly deviceWindowLayers?: number;
  readonly microBatchTokens?: number;
  /** At most that many sequences are computed together. */
  readonly microBatchSequences?: number;
  /** With offload `auto`: at most that many bytes of layers rest in DRAM; default whatever the budget holds. */
  readonly residentBytes?: number;
  /** Memory of one device with memory of its own; default unchecked. */
  readonly deviceBudgetBytes?: number;
  /** How that budget came about, for messages. */
  readonly deviceBudgetName?: string;
}

export interface PlannedLayer {
  readonly layout: LayerLayout;
  readonly tier: Tier;
  readonly kind: 'block' | 'head';
  /** Of the blocks, or of the head's pieces. */
  readonly index: number;
  /** Head pieces: the logits' columns they make. */
  readonly firstColumn: number;
  readonly columns: number;
}

/** One summand of a memory budget. */
export interface PlanTerm {
  readonly tier: 'dram' | 'gpu';
  readonly name: string;
  readonly bytes: number;
  readonly reason: string;
}

export interface BufferPlan {
  readonly count: number;
  readonly sizeBytes: number;
}

/** Immutable result of planning. */
export interface Plan {
  readonly layers: readonly PlannedLayer[];
  readonly hostBuffers: BufferPlan;
  readonly deviceBuffers: BufferPlan;
  /** Of what blocks make and of the cache; the residual stream and logits are f32. */
  readonly activationType: DType;
  readonly microBatchTokens: number;
  readonly microBatchSequences: number;
  /** Tokens that one pass may bring: their hidden states are kept while the layers go by. */
  readonly passTokens: number;
  readonly sequences: number;
  readonly kvPages: number;
  readonly workspaceBytes: number;
  /** Rows whose logits one pass makes. */
  readonly logitRows: number;
  readonly logitColumns: number;
  /** Room for the tokens of all sequences, where drawing looks at them. */
  readonly historyTokens: number;
  readonly rowCacheBytes: readonly number[];
  /** Passes yield likelihoods of given tokens; the head's pieces are folded one by one. */
  readonly nll: boolean;
  /** Passes yield whole rows of logits. */
  readonly readLogits: boolean;
  readonly terms: readonly PlanTerm[];
  readonly dramBudgetBytes: number;
  readonly blockFlopsPerToken: number;
}

/** Below this, prefill reads weights from memory so often that streaming a few layers is the better choice. */
const SMALLEST_USEFUL_TOKENS = 64;
/** Reading two layers ahead keeps the drive busy while buffers change hands; more buys nothing that DRAM tier would not. */
const HOST_WINDOW_LAYERS = 4;

export function makePlan(model: ModelSpec, workload: Workload, options: PlanOptions): Plan {
  const blocks = model.blocks.map(layoutLayer);
  const largestBlock = blocks.reduce((max, { host }) => Math.max(max, host.sizeBytes), 0);
  const pieces = cutHead(model, largestBlock);
  const head = pieces.map(({ layer }) => layoutLayer(layer));
  const activationType = options.halfActivations ? weightType(model) : 'f32';
  const sizing: Sizing = {
    model,
    activationType,
    workload,
    options,
    hostBufferBytes: [...blocks, ...head].reduce((max, { host }) => Math.max(max, host.sizeBytes), 0),
    deviceBufferBytes: [...blocks, ...head].reduce((max, { device }) => Math.max(max, device.sizeBytes), 0),
    pieceColumns: pieces.reduce((max, { columns }) => Math.max(max, columns), 0),
  };
  const layers = [
    ...blocks.map((layout, index) => ({ layout, kind: 'block' as const, index, firstColumn: 0, columns: 0 })),
    ...pieces.map(({ firstColumn, columns }, index) => ({
      layout: present(head[index], 'layout'),
      kind: 'head' as const,
      index,
      firstColumn,
      columns,
    })),
  ];
  const layerBytes = layers.map(({ layout }) => layout.host.sizeBytes);
  const choice = chooseSizes(sizing, layerBytes);
  const tiers = spreadTiers(layers.length, choice.residentLayers);
  return {
    layers: layers.map((layer, index) => ({ ...layer, tier: tiers[index] ? 'dram' : 'nvme' })),
    hostBuffers: { count: choice.hostWindowLayers, sizeBytes: sizing.hostBufferBytes },
    deviceBuffers: deviceBuffers(sizing),
    activationType,
    ...choice.sizes,
    sequences: workload.sequences,
    nll: workload.output === 'nll',
    readLogits: workload.output === 'logits',
    terms: choice.terms,
    dramBudgetBytes: options.dramBudgetBytes,
  };
}

/** What a candidate needs, and what of it. */
interface Needs {
  readonly bytes: number;
  readonly terms: readonly PlanTerm[];
}

interface Choice {
  readonly hostWindowLayers: number;
  readonly residentLayers: number;
  readonly sizes: Sizes;
  readonly terms: PlanTerm[];
}

/**
 * The largest micro-batch with which the working memory and two host buffers fit; then one buffer. What is left
 * holds layers (or, with everything on the drive, more buffers).
 */
function chooseSizes(sizing: Sizing, layerBytes: readonly number[]): Choice {
  const { options } = sizing;
  const totalBytes = layerBytes.reduce((sum, bytes) => sum + bytes, 0);
  const candidates = microBatchCandidates(sizing).map((tokens) => ({
    tokens,
    ...workingMemory(sizing, tokens),
  }));
  const windows = options.hostWindowLayers ? [options.hostWindowLayers] : [2, 1];
  const usable = candidates.filter(
    ({ terms }) => deviceBytes(terms) <= (options.deviceBudgetBytes ?? Infinity),
  );
  let smallest: Needs | undefined;

  if (options.offload !== 'nvme' && totalBytes <= (options.residentBytes ?? Infinity)) {
    // Everything in DRAM needs no host buffers at all.
    const worthwhile =
      options.offload === 'dram' ? 1 : Math.min(SMALLEST_USEFUL_TOKENS, candidates[0]?.tokens ?? 1);
    for (const { tokens, sizes, terms } of usable) {
      if (tokens < worthwhile) break;
      const needed = sum(terms) + totalBytes;
      if (needed <= options.dramBudgetBytes) {
        const all = residentTerm(layerBytes, layerBytes.length);
        const kept = keepRowsOfPass(sizing, sizes, terms, options.dramBudgetBytes - needed);
        return {
          hostWindowLayers: 0,
          residentLayers: layerBytes.length,
          sizes: kept.sizes,
          terms: [...kept.terms, all],
        };
      }
      if (options.offload === 'dram') smallest = { bytes: needed, terms };
    }
  }
  if (options.offload !== 'dram') {
    for (const window of windows) {
      for (const { sizes, terms } of usable) {
        const needed = sum(terms) + window * sizing.hostBufferBytes;
        if (needed <= options.dramBudgetBytes) return spendTheRest(sizing, layerBytes, sizes, terms, window);
        smallest = { bytes: needed, terms: [...terms, bufferTerm(sizing, window)] };
      }
    }
  }
  if (!smallest) throw deviceRefusal(sizing, present(candidates.at(-1), 'a candidate').terms);
  throw refusal(sizing, smallest, totalBytes);
}

function spendTheRest(
  sizing: Sizing,
  layerBytes: readonly number[],
  sizes: Sizes,
  terms: readonly PlanTerm[],
  smallestWindow: number,
): Choice {
  const { options } = sizing;
  const left = options.dramBudgetBytes - sum(terms);
  const affordable = Math.floor(left / sizing.hostBufferBytes);
  const window =
    options.hostWindowLayers ??
    Math.max(smallestWindow, Math.min(HOST_WINDOW_LAYERS, affordable, Math.max(2, layerBytes.length)));
  let residentLayers = 0;
  if (options.offload === 'auto') {
    const forLayers = Math.min(left - window * sizing.hostBufferBytes, options.residentBytes ?? Infinity);
    while (residentLayers < layerBytes.length - 1) {
      if (residentBytes(layerBytes, residentLayers + 1) > forLayers) break;
      residentLayers++;
    }
  }
  const all = [...terms, bufferTerm(sizing, window)];
  if (residentLayers > 0) all.push(residentTerm(layerBytes, residentLayers));
  return { hostWindowLayers: window, residentLayers, sizes, terms: all };
}

/** Which layers rest in DRAM: spread evenly between streamed ones, so that the drive never idles for long. */
export function spreadTiers(layerCount: number, residentLayers: number): boolean[] {
  return Array.from(
    { length: layerCount },
    (_, index) =>
      Math.floor(((index + 1) * residentLayers) / layerCount) >
      Math.floor((index * residentLayers) / layerCount),
  );
}

function residentBytes(layerBytes: readonly number[], residentLayers: number): number {
  const resident = spreadTiers(layerBytes.length, residentLayers);
  return layerBytes.reduce((total, bytes, index) => total + (resident[index] ? bytes : 0), 0);
}

function residentTerm(layerBytes: readonly number[], residentLayers: number): PlanTerm {
  return {
    tier: 'dram',
    name: 'resident layers',
    bytes: residentBytes(layerBytes, residentLayers),
    reason: `${residentLayers} of ${layerBytes.length} layers rest in DRAM`,
  };
}

function bufferTerm({ hostBufferBytes }: Sizing, window: number): PlanTerm {
  return {
    tier: 'dram',
    name: 'host buffers',
    bytes: window * hostBufferBytes,
    reason: `${window} buffers of the largest layer, ${formatBytes(hostBufferBytes)}: one computes, the others fill`,
  };
}

function sum(terms: readonly PlanTerm[], tier: PlanTerm['tier'] = 'dram'): number {
  return terms.reduce((total, term) => total + (term.tier === tier ? term.bytes : 0), 0);
}

function deviceBytes(terms: readonly PlanTerm[]): number {
  return sum(terms, 'gpu');
}

function refusal(sizing: Sizing, smallest: Needs, totalBytes: number): OperatingError {
  const { options, workload } = sizing;
  const parts = partsOf(smallest.terms, 'dram');
  const smallestMiB = Math.ceil(smallest.bytes / 1024 ** 2);
  const remedies = [`give --dram_memory ${smallestMiB}MiB or more`];
  if (options.offload === 'dram') {
    parts.push(`weights ${formatBytes(totalBytes)}`);
    remedies.push('use --nvme_offload_path DIR instead of --cpu_offload');
  }
  if (workload.sequences > 1) remedies.push('lower --batch_size');
  return new OperatingError(
    'DOES_NOT_FIT',
    `${options.dramBudgetName} is ${formatBytes(options.dramBudgetBytes)}, but the smallest plan needs ` +
      `${formatBytes(smallest.bytes)} (${smallestMiB} MiB): ${parts.join(', ')}; ${remedies.join(', or ')}`,
  );
}

function deviceRefusal({ options, workload }: Sizing, terms: readonly PlanTerm[]): OperatingError {
  const remedies = workload.sequences > 1 ? 'lower --batch_size, or shorten prompts' : 'shorten the prompt';
  return new OperatingError(
    'DOES_NOT_FIT',
    `${options.deviceBudgetName ?? 'the memory of a device'} is ${formatBytes(options.deviceBudgetBytes ?? 0)}, but the smallest plan needs ` +
      `${formatBytes(deviceBytes(terms))} of it: ${partsOf(terms, 'gpu').join(', ')}; ${remedies}`,
  );
}

function partsOf(terms: readonly PlanTerm[], tier: PlanTerm['tier']): string[] {
  return terms
    .filter((term) => term.tier === tier && term.bytes > 0)
    .map((term) => `${term.name} ${formatBytes(term.bytes)}`);
}
