// What is asked of the planner, and what follows from it alone: the layers and their bytes, the way to several devices.

import { assert, OperatingError } from '../errors.js';
import { deviceActivationType } from '../model/activation-type.js';
import { checkKvType, type KvDType } from '../model/kv-type.js';
import { gatheredBytes, layoutLayer } from '../model/layout.js';
import { cutHead, type ModelSpec } from '../model/model.js';
import type { FloatType } from '../port/dtype.js';
import { allocatedBytes } from './device-costs.js';
import { type CuttableLayers, cuttableLayers, type HostRowOptions } from './host-rows.js';
import type { PlannedExperts, PlannedLayer } from './plan.js';
import { slicesTransfer } from './sharing.js';
import { plannedExperts } from './slots.js';
import { mayBegin } from './stages.js';
import { defaultTransfer, partCount, stagesTransfer, type Transfer } from './transfer.js';

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
  /** New tokens of each sequence, to weigh plans by; default what the context has beyond a prompt of average length. */
  readonly newTokens?: number;
  /** `tokens`: the next token per sequence; `nll`: the likelihood of every token; `logits`: rows of logits. */
  readonly output: 'tokens' | 'nll' | 'logits';
  /** Drawing a token looks at all tokens of its sequence: a repetition penalty. */
  readonly history?: boolean;
  /** For some sequences, passes add to the logits of single tokens, of so many beside their new ones. */
  readonly addedTokens?: number;
  /** So many of the likeliest tokens may be asked for in place of each; default 0. */
  readonly topLogProbs?: number;
  /** For some sequences, passes say which tokens may be drawn. */
  readonly masks?: boolean;
  /** DRAM that the input of the run takes until its end. */
  readonly inputBytes?: number;
}

/** At most as much as fits, that many layers exactly, or at most that many bytes. */
export type DeviceResident = 'auto' | { readonly layers: number } | { readonly bytes: number };

/** As many as is best, none, or so many exactly. */
export type ExpertSlotsOption = 'auto' | number;

/** What the caller fixes; the rest is the planner's choice. */
export interface PlanOptions extends HostRowOptions {
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
  /** Tokens in a page of keys and values; a power of two. Default PAGE_TOKENS. */
  readonly pageTokens?: number;
  /** At most that many sequences are computed together. */
  readonly microBatchSequences?: number;
  /** With offload `auto`: at most that many bytes of layers rest in DRAM; default whatever the budget holds. */
  readonly residentBytes?: number;
  /** Memory of one device with memory of its own; default unchecked. */
  readonly deviceBudgetBytes?: number;
  /** The same of each device, where they differ and each has layers of its own. */
  readonly deviceBudgets?: readonly number[];
  /** How that budget came about, for messages. */
  readonly deviceBudgetName?: string;
  /** Keys and values rest in DRAM, also where devices could hold them; without meaning where they compute in place. */
  readonly kvOffload?: boolean;
  /** How keys and values are stored; default as they are computed, which loses nothing. */
  readonly kvType?: KvDType;
  /**
   * Devices are CUDA's: they take activations in the 16-bit type of a model's weights, and what they take beside what is
   * asked of them is part of the plan. Default: activations are f32, and nothing else is taken.
   */
  readonly cuda?: boolean;
  /** Such devices take f32 instead, which takes twice the memory and more time, and rounds nothing. */
  readonly activationType?: 'f32';
  /**
   * Layers that rest on every device with memory of its own; default as many as fit with offload `auto` and a budget,
   * none otherwise.
   */
  readonly deviceResident?: DeviceResident;
  /** What rests on several devices lies there in shards, or whole; default as takes the job less time. */
  readonly restsInShards?: boolean;
  /** Places on every device for experts that come when they are chosen; default `auto` with offload `auto`, else none. */
  readonly expertSlots?: ExpertSlotsOption;
  /** With experts on the drive and slots on devices: places in DRAM for each device; default as many as fit. */
  readonly dramSlots?: number;
  /** Each device has consecutive layers, and batches follow each other through them. */
  readonly pipeline?: boolean;
  /** How layers reach several devices with memory of their own; default in shards gathered by peer copies. */
  readonly transfer?: Transfer;
}

/** The same for all that is weighed. */
export interface PlanInput {
  readonly model: ModelSpec;
  readonly workload: Workload;
  readonly options: PlanOptions;
  /** Blocks, then the head's pieces. */
  readonly layers: readonly Omit<PlannedLayer, 'tier'>[];
  /** By layer, in host memory and in a device's. */
  readonly hostLayerBytes: readonly number[];
  readonly deviceLayerBytes: readonly number[];
  /** By layer, where its experts could come one by one. */
  readonly experts: readonly (PlannedExperts | undefined)[];
  /** Rows that the host could multiply where they rest; undefined where it is not to. */
  readonly cuttable: CuttableLayers | undefined;
  /** What the largest layer takes. */
  readonly hostBufferBytes: number;
  readonly deviceBufferBytes: number;
  /** Columns of the head's widest piece. */
  readonly pieceColumns: number;
  /** On their way at once through the stages of a pipeline; else 1, which each device has of its own. */
  readonly batches: number;
  readonly activationType: FloatType;
  readonly kvType: KvDType;
  readonly transfer: Transfer;
}

/** Throws BAD_OPTION for layers that are to rest on a device without memory of its own, or keys and values in a type that
 * does not fit the model. */
export function planInput(model: ModelSpec, workload: Workload, options: PlanOptions): PlanInput {
  const { computesInPlace, deviceCount, cuda } = options;
  if (computesInPlace && options.deviceResident !== undefined) {
    throw new OperatingError(
      'BAD_OPTION',
      '--gpu_resident is for a GPU, but the device is the CPU, which computes on DRAM: leave it out',
    );
  }
  if (options.kvOffload && model.shares && cuda) {
    throw new OperatingError(
      'BAD_OPTION',
      '--kv_offload is given, but GPUs that compute together (--parallel tensor) keep keys and values: leave one of them out',
    );
  }
  const layers = layersOf(model);
  const hostLayerBytes = layers.map(({ layout }) => layout.host.sizeBytes);
  assert(!model.shares || model.shares.length === deviceCount, 'every device has a share of the model');
  checkPipeline(model, options);
  const { pipeline = false } = options;
  const usual = model.shares
    ? slicesTransfer(deviceCount)
    : pipeline
      ? stagesTransfer(deviceCount)
      : defaultTransfer(deviceCount, computesInPlace);
  const parts = pipeline ? 1 : partCount(usual, deviceCount);
  const deviceLayerBytes = layers.map(({ layout }) =>
    allocatedBytes(options, gatheredBytes(layout.device.sizeBytes, parts)),
  );
  const activationType = cuda ? (options.activationType ?? deviceActivationType(model)) : 'f32';
  const kvType = options.kvType ?? activationType;
  checkKvType(kvType, model.caches);
  const gathers = deviceCount > 1 && !computesInPlace && !model.shares && !pipeline;
  let experts: PlanInput['experts'] | undefined;
  return {
    model,
    workload,
    options,
    layers,
    hostLayerBytes,
    deviceLayerBytes,
    // Thousands of experts take a second to look at, and a plan that holds all of them in DRAM never asks.
    get experts() {
      // Experts that devices share come with their layers.
      experts ??=
        model.shares || pipeline
          ? layers.map(() => undefined)
          : plannedExperts(
              layers.map(({ layout }) => layout),
              computesInPlace,
            );
      return experts;
    },
    batches: pipeline ? Math.min(deviceCount, mayBegin(model.caches, layers).filter((may) => may).length) : 1,
    cuttable: cuttableLayers(model, layers, options),
    hostBufferBytes: largest(hostLayerBytes),
    deviceBufferBytes: largest(deviceLayerBytes),
    pieceColumns: largest(layers.map(({ columns }) => columns)),
    activationType,
    kvType,
    transfer: gathers ? (options.transfer ?? usual) : usual,
  };
}

/** Throws BAD_OPTION for what a pipeline cannot have beside. */
function checkPipeline({ shares }: ModelSpec, options: PlanOptions): void {
  const { pipeline, computesInPlace, deviceCount, expertSlots, hostRowShare, cpuCompute } = options;
  if (!pipeline) return;
  assert(!shares, 'devices of a pipeline have whole layers');
  if (!computesInPlace && deviceCount > 1) {
    const [idle] = [
      Number(expertSlots) > 0 ? '--expert_slots' : undefined,
      hostRowShare !== undefined || cpuCompute === 'only' ? '--cpu_compute' : undefined,
    ].filter((option) => option !== undefined);
    if (idle === undefined) return;
    throw new OperatingError(
      'BAD_OPTION',
      `--parallel is pipeline, where every device computes whole layers of its own, and ${idle} is given: leave one of them out`,
    );
  }
  throw new OperatingError(
    'BAD_OPTION',
    '--parallel is pipeline, which is of several devices: add --num_gpus, or leave it out',
  );
}

function layersOf(model: ModelSpec): PlanInput['layers'] {
  const blocks = model.blocks.map(layoutLayer);
  const pieces = cutHead(model, largest(blocks.map(({ host }) => host.sizeBytes)));
  return [
    ...blocks.map((layout, index) => ({
      layout,
      kind: 'block' as const,
      index,
      firstColumn: 0,
      columns: 0,
      isShared: false,
    })),
    ...pieces.map(({ layer, firstColumn, columns, isShared }, index) => ({
      layout: layoutLayer(layer),
      kind: 'head' as const,
      index,
      firstColumn,
      columns,
      isShared,
    })),
  ];
}

function largest(numbers: readonly number[]): number {
  return numbers.reduce((most, one) => Math.max(most, one), 0);
}
