// Decides, before anything is allocated, where each layer rests and how large every buffer is; each size with its reason.

import { OperatingError, present } from '../errors.js';
import { deviceActivationType } from '../model/activation-type.js';
import { PAGE_TOKENS } from '../model/kv-cache.js';
import { gatheredBytes, type LayerLayout, layoutLayer } from '../model/layout.js';
import { cutHead, type ModelSpec } from '../model/model.js';
import type { DType } from '../port/dtype.js';
import { defaultTransfer, type Transfer } from '../stream/transfer.js';
import { roundUp } from '../units.js';
import { choosePlaces } from './choice.js';
import { ALLOCATION_BYTES } from './device-costs.js';
import type { DeviceResident } from './device-layers.js';
import type { Sizing } from './sizes.js';

export { spreadTiers } from './device-layers.js';
export type { DeviceResident };

export type Tier = 'gpu' | 'dram' | 'nvme';

/** `auto`: as much in DRAM as the budget holds, the rest on the drive. */
export type Offload = 'auto' | 'dram' | 'nvme';

/** What is to be computed, as upper bounds. */
export interface Workload {
  /** Sequences that are alive at once. */
  readonly sequences: number;
  /** Prompt and new tokens of the longest sequence. */
  readonly contextTokens: number;
  /**
   * Tokens of all sequences of a device whose keys and values are kept at once; default as many as all sequences have
   * that are as long as they may be. With fewer, some sequences wait for others, or are computed again.
   */
  readonly cachedTokens?: number;
  /** Tokens of all prompts together: what a prefill pass brings at most. */
  readonly promptTokens: number;
  /** Of each sequence, to weigh plans by; default what the context has beyond a prompt of average length. */
  readonly newTokens?: number;
  /** `tokens`: the next token per sequence; `nll`: the likelihood of every token; `logits`: rows of logits. */
  readonly output: 'tokens' | 'nll' | 'logits';
  /** Drawing a token looks at all tokens of its sequence: a repetition penalty. */
  readonly history?: boolean;
  /** DRAM that the input of the run takes until its end. */
  readonly inputBytes?: number;
}

/** What the caller fixes; the rest is the planner's choice. */
export interface PlanOptions {
  readonly offload: Offload;
  readonly dramBudgetBytes: number;
  /** How the budget came about, for messages: `--dram_memory` or `the memory available on this machine`. */
  readonly dramBudgetName: string;
  readonly deviceCount: number;
  readonly computesInPlace: boolean;
  /** Host buffers: how many layers nvme→dram may run ahead. */
  readonly hostWindowLayers?: number;
  /** Device buffers: how many layers dram→gpu may run ahead. */
  readonly deviceWindowLayers?: number;
  readonly microBatchTokens?: number;
  /** A pass has at most so many tokens, but at least one of every sequence and a whole micro-batch. */
  readonly passTokens?: number;
  /** Of keys and values; a power of two. Default PAGE_TOKENS. */
  readonly pageTokens?: number;
  /** At most that many sequences are computed together. */
  readonly microBatchSequences?: number;
  /** With offload `auto`: at most that many bytes of layers rest in DRAM; default whatever the budget holds. */
  readonly residentBytes?: number;
  /** Memory of one device with memory of its own; default unchecked. */
  readonly deviceBudgetBytes?: number;
  /** How that budget came about, for messages. */
  readonly deviceBudgetName?: string;
  /** Keys and values rest in DRAM, also where devices could hold them; without meaning where they compute in place. */
  readonly kvOffload?: boolean;
  /**
   * Devices are CUDA's: they take activations in the 16-bit type of a model's weights, and what they take beside what is
   * asked of them is part of the plan. Default: activations are f32, and nothing else is taken.
   */
  readonly cuda?: boolean;
  /**
   * Layers that rest on every device with memory of its own; default as many as fit with offload `auto` and a budget,
   * none otherwise.
   */
  readonly deviceResident?: DeviceResident;
  /** How layers reach several devices with memory of their own; default in shards gathered by peer copies. */
  readonly transfer?: Transfer;
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

export interface KvBufferPlan {
  readonly count: number;
  /** Of each. */
  readonly pages: number;
}

/** Immutable result of planning. */
export interface Plan {
  readonly layers: readonly PlannedLayer[];
  readonly deviceCount: number;
  readonly transfer: Transfer;
  readonly hostBuffers: BufferPlan;
  readonly deviceBuffers: BufferPlan;
  /** Of what blocks make and of the cache; the residual stream and logits are f32. */
  readonly activationType: DType;
  readonly microBatchTokens: number;
  readonly microBatchSequences: number;
  /** Tokens that one pass may bring: their hidden states are kept while the layers go by. */
  readonly passTokens: number;
  readonly sequences: number;
  /** Of the longest sequence, prompt and new tokens. */
  readonly contextTokens: number;
  /** Tokens in a page of keys and values. */
  readonly pageTokens: number;
  /** Of each device's sequences, in every block. */
  readonly kvPages: number;
  /** Where keys and values rest in DRAM: a device's buffers for one block of a micro-batch; none where they lie ready. */
  readonly kvBuffers: KvBufferPlan;
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
  /** Of each device; undefined in place, and where it is not known. */
  readonly deviceBudgetBytes: number | undefined;
  readonly blockFlopsPerToken: number;
  /**
   * Milliseconds from the prompts to the last token of all sequences, at the usual rates of a GPU or, in place, of a
   * processor. Compares plans, predicts nothing.
   */
  readonly jobMs: number;
}

export function makePlan(model: ModelSpec, workload: Workload, options: PlanOptions): Plan {
  const blocks = model.blocks.map(layoutLayer);
  const largestBlock = blocks.reduce((max, { host }) => Math.max(max, host.sizeBytes), 0);
  const pieces = cutHead(model, largestBlock);
  const head = pieces.map(({ layer }) => layoutLayer(layer));
  if (options.computesInPlace && options.deviceResident !== undefined) {
    throw new OperatingError(
      'BAD_OPTION',
      '--gpu_resident is for a GPU, but the device is the CPU, which computes on DRAM: leave it out',
    );
  }
  const allocated = options.cuda ? ALLOCATION_BYTES : 1;
  const deviceLayerBytes = [...blocks, ...head].map(({ device }) =>
    roundUp(gatheredBytes(device.sizeBytes, options.deviceCount), allocated),
  );
  const usual = defaultTransfer(options.deviceCount, options.computesInPlace);
  const gathers = options.deviceCount > 1 && !options.computesInPlace;
  const transfer = gathers ? (options.transfer ?? usual) : usual;
  const activationType = options.cuda ? deviceActivationType(model) : 'f32';
  const sizing: Sizing = {
    model,
    activationType,
    transfer,
    workload,
    options,
    hostBufferBytes: [...blocks, ...head].reduce((max, { host }) => Math.max(max, host.sizeBytes), 0),
    deviceBufferBytes: deviceLayerBytes.reduce((max, bytes) => Math.max(max, bytes), 0),
    pieceColumns: pieces.reduce((max, { columns }) => Math.max(max, columns), 0),
    hostLayerBytes: [...blocks, ...head].map(({ host }) => host.sizeBytes),
    deviceLayerBytes,
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
  const choice = choosePlaces(sizing);
  return {
    layers: layers.map((layer, index) => ({ ...layer, tier: present(choice.tiers[index], 'tier') })),
    deviceCount: options.deviceCount,
    transfer,
    hostBuffers: { count: choice.hostWindowLayers, sizeBytes: sizing.hostBufferBytes },
    deviceBuffers: choice.deviceBuffers,
    activationType,
    ...choice.sizes,
    sequences: workload.sequences,
    contextTokens: workload.contextTokens,
    pageTokens: options.pageTokens ?? PAGE_TOKENS,
    nll: workload.output === 'nll',
    readLogits: workload.output === 'logits',
    terms: choice.terms,
    dramBudgetBytes: options.dramBudgetBytes,
    deviceBudgetBytes: options.computesInPlace ? undefined : options.deviceBudgetBytes,
    jobMs: choice.jobMs,
  };
}

/**
 * Steps that a hop may be ahead, so that all of its buffers are in use: layers that rest where it leads to lie between
 * those that pass by, and need no buffer.
 */
export function stepsAhead(
  layers: readonly PlannedLayer[],
  passesBy: (layer: PlannedLayer) => boolean,
  buffers: number,
): number {
  const passing = layers.filter(passesBy).length;
  if (passing === 0 || buffers === 0) return 2;
  return Math.max(buffers, Math.min(layers.length, Math.ceil((buffers * layers.length) / passing)));
}
