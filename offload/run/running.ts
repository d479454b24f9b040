// What the steps of a device's pass work with: the device, and its micro-batches on their way through the layers.

import type { ModelSpec } from '../model/model.js';
import type { Plan } from '../plan/plan.js';
import type { DeviceState } from './device-state.js';
import type { ControlTables, MicroBatch } from './pass.js';

/** One device and what it computes; the same for all its passes. */
export interface DeviceWork {
  readonly model: ModelSpec;
  readonly plan: Plan;
  readonly state: DeviceState;
}

/** A micro-batch, and where its tokens and outputs lie among those of the pass. */
export interface Running {
  readonly microBatch: MicroBatch;
  readonly control: ControlTables;
  readonly firstToken: number;
  readonly tokens: number;
  readonly firstOutput: number;
}

export function outputCount(running: readonly Running[]): number {
  return running.reduce((sum, { microBatch }) => sum + microBatch.outputs.length, 0);
}
