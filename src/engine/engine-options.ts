// How an engine is opened: on which devices, where weights rest, and for what work.

import {
  type CpuBackendOptions,
  type CudaBackendOptions,
  type CudaStatus,
  cudaStatus,
  type FileState,
  type GatherWish,
  type Offload,
  type PlanOptions,
  type WeightFile,
  type Workload,
} from '../../offload/index.js';

export type DeviceKind = 'cpu' | 'cuda';

/** How several devices share the work: each with prompts of its own, all in every product of one batch, or each with layers of its own. */
export type Way = 'streams' | 'tensor' | 'pipeline';

/** `auto`: whichever takes the work least time. */
export const PARALLEL = ['streams', 'tensor', 'pipeline', 'auto'] as const satisfies readonly (
  | Way
  | 'auto'
)[];
export type Parallel = Way | 'auto';

export interface EngineOptions {
  /** Default: the CPU. */
  readonly device?: DeviceKind;
  readonly offload: Offload;
  /** Undefined: most of what is available on this machine. */
  readonly dramBudgetBytes?: number;
  /** What was available when something was decided by it; default: what is available now. */
  readonly dramAvailableBytes?: number;
  readonly workload: Workload;
  readonly plan?: Partial<PlanOptions>;
  readonly cpu?: CpuBackendOptions;
  readonly cuda?: CudaBackendOptions;
  /** What may be taken of each GPU; undefined: most of what is free. */
  readonly deviceBudgetBytes?: number;
  /** How layers reach several devices, unless `plan.transfer` says it; default `auto`: as is measured to be faster. */
  readonly gather?: GatherWish;
  /** Is told what a user may want to know while it runs. */
  readonly tell?: (what: string) => void;
  /** Keep every span for a trace file. */
  readonly keepSpans?: boolean;
  /** Weight files to read instead of the checkpoint's own: a copy on another drive, same content and order. */
  readonly files?: readonly WeightFile[];
  /** What the paths of `files` led to when their content was made sure of. */
  readonly fileStates?: readonly FileState[];
}

/** The GPU where there is one that can be used. */
export function chooseDevice({ problem }: Pick<CudaStatus, 'problem'> = cudaStatus()): DeviceKind {
  return problem === '' ? 'cuda' : 'cpu';
}
