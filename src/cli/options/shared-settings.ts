// What every command that runs a model is told: the options of several commands, as typed values.

import type { CpuBackendOptions, GatherWish, Offload, PlanOptions } from '../../../offload/index.js';
import type { DeviceKind, Parallel } from '../../engine/engine-options.js';
import type { ShapeType } from '../../engine/shape-tensors.js';
import type { PackedWeights } from '../../pack/scheme.js';
import type { DriveWish } from '../../stored/drive-rates.js';
import type { DsSettings } from './ds-config.js';

export interface SharedOptions {
  readonly name: string;
  /** On the hub. */
  readonly revision: string | undefined;
  /** Random weights below `folder`; undefined folder: the cache. */
  readonly dummyWeights: { readonly folder: string | undefined } | undefined;
  /** What random weights are, or a checkpoint must have. */
  readonly dtype: ShapeType | undefined;
  /** What a checkpoint of float weights is packed as at first use. */
  readonly packed: PackedWeights | undefined;
  readonly offload: Offload;
  /** With offload `nvme`: the weights are to lie on the drives of these folders. */
  readonly offloadDrives: readonly DriveWish[];
  readonly dramBudgetBytes: number | undefined;
  /** What was available when the batch was chosen: a plan with less would be another one. */
  readonly dramAvailableBytes?: number;
  readonly device: DeviceKind;
  readonly deviceBudgetBytes: number | undefined;
  readonly deviceCount: number;
  readonly parallel: Parallel;
  /** Batches that are computed at once: as many as devices with `streams` and `pipeline`, one with `tensor`. */
  readonly batchCount: number;
  /** How layers reach several devices. */
  readonly gather: GatherWish | undefined;
  readonly plan: Partial<PlanOptions>;
  readonly cpu: CpuBackendOptions;
  /** What --ds_config says, as far as it needs the model's sizes or belongs to a command. */
  readonly dsConfig: DsSettings | undefined;
  /** To be logged before work begins. */
  readonly warnings: readonly string[];
  readonly report: string | undefined;
  readonly trace: string | undefined;
}
