// A layer between the hops: in DRAM or on its way there, then on the devices or on its way there.

import type { LayerLayout, Placement } from '../model/layout.js';
import type { DeviceEvent, HostMemory } from '../port/backend.js';
import type { Memory } from '../port/ops.js';
import type { Lease } from './pool.js';
import type { RowsApart } from './row-share.js';
import type { Step } from './schedule.js';

/** A layer in DRAM, on its way there, or at rest on the devices. */
export interface HostLayer {
  readonly step: Step;
  readonly layout: LayerLayout;
  /** Null for a layer that rests on the devices, once its copies are queued before this step's turn. */
  readonly memory: HostMemory | null;
  /** Resolves with the time the bytes were there. */
  readonly ready: Promise<number>;
  /** Null for a layer that rests in DRAM. */
  readonly lease: Lease<HostMemory> | null;
}

/** DRAM, or the checkpoint's files. */
export type ExpertHome = HostMemory | 'files';

/** A layer's bytes where one device computes on them. */
export interface DeviceCopy {
  readonly memory: Memory;
  readonly placements: readonly Placement[];
  /** Compute waits for these. */
  readonly ready: readonly DeviceEvent[];
  /** It stays where it is, for all passes. */
  readonly rests: boolean;
  /** Where the layer's experts rest, which are not among the placements. */
  readonly home?: ExpertHome | undefined;
  /** Where some rows did not come. */
  readonly apart?: RowsApart | undefined;
}

/** A layer that is there, or on its way with events to wait for; in the order of the schedule. */
export interface StagedLayer {
  readonly step: Step;
  /** When the host knew the bytes in DRAM, in milliseconds. */
  readonly hostReadyMs: number;
  readonly perDevice: readonly DeviceCopy[];
  /** Gives the buffers back once `done` (one event per device) are reached. */
  release(done: readonly DeviceEvent[]): void;
}
