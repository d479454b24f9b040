// A plan in the making: devices get their layers first, then DRAM gets of the rest what it holds.

import type { BufferPlan, Plan, PlanTerm, Sizes, SlotPlan, StagePlan, Tier } from './plan.js';

/** What devices hold, and then what DRAM holds beside it. */
export interface Draft {
  readonly sizes: Sizes;
  /** By layer: whether it rests on the devices. */
  readonly onDevices: readonly boolean[];
  /** By layer: whether each device has a shard of it, and gathers the rest when its turn comes; absent where none is. */
  readonly inShards?: readonly boolean[];
  readonly deviceBuffers: BufferPlan;
  /** By device of a pipeline; absent where every device computes all layers. */
  readonly stages?: readonly StagePlan[];
  /** Layers with experts are then not among those that rest on devices, and all others are. */
  readonly slots?: SlotPlan;
  /** Every layer rests on the devices, or waits for nothing but experts in slots, and the tables of tokens rest as well; absent else. */
  readonly tablesRest?: Plan['tablesRest'];
  /** By layer that does not rest on devices, in their order: bytes in host memory, and whether it rests in DRAM. */
  readonly restBytes: readonly number[];
  readonly inDram: readonly boolean[];
  /** Buffers in DRAM for layers on their way; 0 until DRAM is filled, and where nothing passes through. */
  readonly hostWindowLayers: number;
  /** Those of the sizes, and those of layers and buffers. */
  readonly terms: readonly PlanTerm[];
}

/** By layer. */
export function tiersOf({ onDevices, inDram }: Draft): Tier[] {
  let next = 0;
  return onDevices.map((resident) => {
    if (resident) return 'gpu';
    return inDram[next++] ? 'dram' : 'nvme';
  });
}

export function sumOf(terms: readonly PlanTerm[], tier: PlanTerm['tier']): number {
  return terms.reduce((all, term) => (term.tier === tier ? all + term.bytes : all), 0);
}

export function total(bytes: readonly number[]): number {
  return bytes.reduce((all, one) => all + one, 0);
}
