// What the machine could do at best, measured in the same run: shared drives and hosts change from hour to hour.

import { type Executor, measureComputeLimits } from '../../offload/index.js';
import type { DeviceKind } from '../engine/engine-options.js';

/** Undefined where nothing was measured. */
export interface Limits {
  /** The drive alone, through the same ring and buffers. */
  readonly driveBytesPerSecond: number | undefined;
  readonly memoryBytesPerSecond: number | undefined;
  readonly flopsPerSecond: number | undefined;
}

export const UNKNOWN_LIMITS: Limits = {
  driveBytesPerSecond: undefined,
  memoryBytesPerSecond: undefined,
  flopsPerSecond: undefined,
};

/** Long enough to average over a drive's bursts. */
const DRIVE_MS = 1000;

/**
 * Takes about a second, or as long as reading all streamed layers once, whichever is less; undefined where nothing
 * streams. No session of the executor may run.
 */
export async function measureDriveLimit(executor: Executor): Promise<number | undefined> {
  if (executor.plan.layers.every(({ tier }) => tier !== 'nvme')) return undefined;
  return (await executor.measureReadLimit(DRIVE_MS)).bytesPerSecond;
}

/** To be called when the engine is closed: it needs memory of its own, which no budget has room for. */
export function withComputeLimits(
  driveBytesPerSecond: number | undefined,
  device: DeviceKind,
  threads: number | undefined,
): Limits {
  // These are the processor's limits, which do not limit a GPU.
  if (device === 'cuda') return { ...UNKNOWN_LIMITS, driveBytesPerSecond };
  return { driveBytesPerSecond, ...measureComputeLimits(threads) };
}
