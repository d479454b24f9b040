// The plan: where each layer rests, how large every buffer is, and the reason for each size.

import type { ExpertFiles } from '../model/expert-files.js';
import type { LayerExperts } from '../model/experts.js';
import type { HorizonPages } from '../model/horizon.js';
import type { KvDType } from '../model/kv-type.js';
import type { LayerLayout } from '../model/layout.js';
import type { FloatType } from '../port/dtype.js';
import type { ShareRule } from '../port/shares.js';
import type { Transfer } from './transfer.js';

export type Tier = 'gpu' | 'dram' | 'nvme';

/** A layer's experts, and the first of them among those of all layers. */
export interface PlannedExperts extends LayerExperts {
  readonly firstKey: number;
  /** Where they come from the drive. What a slot of DRAM takes is said here. */
  readonly files?: ExpertFiles | undefined;
}

export interface PlannedLayer {
  readonly layout: LayerLayout;
  readonly tier: Tier;
  /** It rests on the devices, a shard on each: they gather it when its turn comes. */
  readonly inShards?: boolean;
  readonly kind: 'block' | 'head';
  /** Place among the blocks, or among the head's pieces. */
  readonly index: number;
  /** Head pieces: the logits' columns they make. */
  readonly firstColumn: number;
  readonly columns: number;
  /** Devices that compute together share these columns equally, in their order. */
  readonly isShared: boolean;
  /**
   * Where experts of the plan lie in slots: the layer rests in DRAM or on the drive, and all of it but these on every device as well.
   * Where devices compute in place, the layer rests on the drive, and all of it but these in DRAM.
   */
  readonly experts?: PlannedExperts | undefined;
  /** Where rows may stay in DRAM, which the layer rests in: the matrices that may be cut. */
  readonly cuttable?: readonly string[] | undefined;
}

/** Equal places on every device, or in DRAM where it computes there, for the experts of all layers, and who uses them. */
export interface SlotPlan {
  readonly count: number;
  readonly bytes: number;
  /** Experts of all layers. */
  readonly keys: number;
  /** Experts that a token of a layer goes to. */
  readonly choices: number;
  /** A pass of one micro-batch of up to so many tokens brings what it chooses; with others whole layers pass by. */
  readonly mostTokens: number;
  /** What the host computes of that which a pass chooses and lacks; undefined where it computes nothing. */
  readonly host?: HostSharePlan | undefined;
  /** Where experts rest on the drive, and devices have memory of their own: slots in DRAM for those that lie in none of the device. */
  readonly behind?: DramSlotPlan | undefined;
}

/** For each device. An expert lies in a slot of the device, in one of these, or on the drive alone. */
export interface DramSlotPlan {
  readonly count: number;
  /** What the drive brings of an expert. */
  readonly bytes: number;
}

/** Whether the host computes beside devices: where it helps, never, or all of what they lack. */
export type CpuCompute = 'auto' | 'off' | 'only';

/** What the host's processor computes beside a device. */
export interface HostSharePlan {
  readonly rule: ShareRule;
  /** In passes of up to so many tokens. */
  readonly mostTokens: number;
  /** What one block's part takes. */
  readonly workspaceBytes: number;
}

/** Rows of streamed layers that the host multiplies where they rest, while the link brings the others. */
export interface RowsPlan {
  /** Rows that travel to begin with, in CUTS-ths. */
  readonly share: number;
  /** It is asked for, and not corrected by what is measured. */
  readonly isFixed: boolean;
  /** A pass of one micro-batch of up to so many tokens leaves rows to the host; for others whole layers pass by. */
  readonly mostTokens: number;
  readonly inputBytes: number;
  readonly resultBytes: number;
  /** On the device: what it keeps beside its mailbox, and room for results that are added to something. */
  readonly deviceBytes: number;
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
  /** In each buffer, for a block that sees whole contexts. */
  readonly pages: number;
}

/** How much is computed together, and all that this takes beside the layers. */
export interface Sizes {
  readonly microBatchTokens: number;
  readonly microBatchSequences: number;
  /** Tokens that one pass may bring: their hidden states are kept while the layers go by. */
  readonly passTokens: number;
  /** Pages that a device's sequences have, in every block but those of `horizons`. */
  readonly kvPages: number;
  /** Blocks that see only the latest tokens have fewer pages, where that saves some: by horizon. */
  readonly horizons: readonly HorizonPages[];
  /** Where keys and values rest in DRAM: a device's buffers for one block of a micro-batch; none where they lie ready. */
  readonly kvBuffers: KvBufferPlan;
  readonly workspaceBytes: number;
  /** Rows whose logits one pass makes. */
  readonly logitRows: number;
  readonly logitColumns: number;
  /** Room for the tokens of all sequences, where drawing looks at them. */
  readonly historyTokens: number;
  /** Room for the tokens whose logits passes add to, of all sequences together. */
  readonly addedTokens: number;
  /** So many of the likeliest tokens may be told in place of each. */
  readonly topLogProbs: number;
  /** 32-bit words of what says which tokens a sequence may draw; 0 where no pass says it. */
  readonly maskWords: number;
  readonly rowCacheBytes: readonly number[];
  readonly blockFlopsPerToken: number;
  readonly terms: readonly PlanTerm[];
}

/** Consecutive layers, all of which one device computes. */
export interface StagePlan {
  /** The first of them, and the one behind the last, among the plan's layers. */
  readonly first: number;
  readonly end: number;
}

/** Devices in a row: what one has made of a batch goes on to the next, while it takes up another batch. */
export interface PipelinePlan {
  /** By device; devices beyond these have nothing to do. */
  readonly stages: readonly StagePlan[];
  /** Batches that are on their way at once, each with pages and passes of its own. */
  readonly batches: number;
}

/** Immutable result of planning; its terms are those of its sizes and of its layers. */
export interface Plan extends Sizes {
  readonly layers: readonly PlannedLayer[];
  readonly deviceCount: number;
  /** Undefined where every device computes all layers. */
  readonly pipeline?: PipelinePlan | undefined;
  readonly transfer: Transfer;
  /** Where devices compute a pass together: room for one device's summand of a round. */
  readonly sumRoundBytes?: number | undefined;
  readonly hostBuffers: BufferPlan;
  readonly deviceBuffers: BufferPlan;
  /** The tables of tokens come to rest on every device, or where kernels of all read them in DRAM, behind the layers. */
  readonly tablesRest?: Exclude<Tier, 'nvme'> | undefined;
  /** Undefined where layers rest or pass by whole. */
  readonly slots?: SlotPlan | undefined;
  /** Undefined where layers that stream always come whole. */
  readonly rows?: RowsPlan | undefined;
  /** The type of what blocks make; the residual and logits are f32. */
  readonly activationType: FloatType;
  /** How keys and values are stored, wherever they rest. */
  readonly kvType: KvDType;
  readonly sequences: number;
  /** Prompt and new tokens of the longest sequence. */
  readonly contextTokens: number;
  /** Tokens in a page of keys and values. */
  readonly pageTokens: number;
  /** Passes yield likelihoods of given tokens; the head's pieces are folded one by one. */
  readonly nll: boolean;
  /** Passes yield whole rows of logits. */
  readonly readLogits: boolean;
  readonly dramBudgetBytes: number;
  /** Memory of each device; undefined in place, and where it is not known. */
  readonly deviceBudgetBytes: number | undefined;
  /**
   * Milliseconds from the prompts to the last token of all sequences, at the usual rates of a GPU or, in place, of a
   * processor. Compares plans, predicts nothing.
   */
  readonly jobMs: number;
}
