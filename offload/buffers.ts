// The buffers of all hops, allocated once from the plan; prefetchers of consecutive sessions share them.

import type { Backend, HostMemory } from './backend.js';
import type { Memory } from './ops.js';
import type { Plan } from './plan.js';
import { BufferPool } from './pool.js';

export interface Buffers {
  /** Null where no layer streams from a drive. */
  readonly host: BufferPool<HostMemory> | null;
  /** One pool per device; empty where the devices compute in place. */
  readonly device: readonly BufferPool<Memory>[];
  /** Memory of the layers that rest in DRAM, by layer index. */
  readonly residents: ReadonlyMap<number, HostMemory>;
  /** Fills begun, by layer index: the first pass is the load. */
  readonly filled: Map<number, Promise<number>>;
}

export function allocateBuffers(backend: Backend, plan: Plan): Buffers {
  const { hostBuffers, deviceBuffers } = plan;
  const host = times(hostBuffers.count, () => backend.allocateHost(hostBuffers.sizeBytes, 'stream'));
  const residents = new Map<number, HostMemory>();
  for (const [index, { tier, layout }] of plan.layers.entries()) {
    if (tier === 'dram') residents.set(index, backend.allocateHost(layout.host.sizeBytes, 'resident'));
  }
  const apart = backend.devices.filter((device) => !device.computesInPlace);
  return {
    host: host.length > 0 ? new BufferPool('host', host) : null,
    device: apart.map((device) => {
      const memories = times(deviceBuffers.count, () => device.allocate(deviceBuffers.sizeBytes));
      return new BufferPool(device.name, memories);
    }),
    residents,
    filled: new Map(),
  };
}

/** Buffers that are out. */
export function leasedCount({ host, device }: Buffers): number {
  return device.reduce((sum, pool) => sum + pool.leased, host?.leased ?? 0);
}

function times<T>(count: number, make: () => T): T[] {
  return Array.from({ length: count }, make);
}
