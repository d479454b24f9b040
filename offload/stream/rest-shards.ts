// Layers that rest on several devices in shards: each shard is fetched once, and the layer gathered whenever its turn comes.

import { present } from '../errors.js';
import { copiesOfShard, cutShards, type DeviceLayout } from '../model/layout.js';
import type { Backend, DeviceEvent, DeviceStream, HostMemory } from '../port/backend.js';
import type { Memory } from '../port/ops.js';
import { type HopSpan, queueFetch, type Target } from './transfer.js';

export interface ShardsOptions {
  readonly backend: Pick<Backend, 'devices'>;
  readonly layout: DeviceLayout;
  readonly from: HostMemory;
  /** Per device, where its shard rests, from its first byte on. */
  readonly memories: readonly Memory[];
  readonly tell: (span: HopSpan) => void;
}

/** Queues each device's own shard over its own link; the events are reached when they are there. */
export function queueShards({ backend, layout, from, memories, tell }: ShardsOptions): DeviceEvent[] {
  const shards = cutShards(layout.sizeBytes, backend.devices.length);
  return backend.devices.map((device, g) => {
    const shard = present(shards[g], 'shard');
    const memory = present(memories[g], 'memory');
    const { startBytes } = shard;
    return queueFetch(device, { from, to: memory, startBytes, pieces: copiesOfShard(layout, shard), tell });
  });
}

export interface GatherOptions {
  readonly backend: Pick<Backend, 'devices'>;
  readonly layout: DeviceLayout;
  /** Per device, where its shard rests, and what must be reached before it is read. */
  readonly shards: readonly { readonly memory: Memory; readonly ready: readonly DeviceEvent[] }[];
  readonly targets: readonly Target[];
  readonly tell: (span: HopSpan) => void;
}

/**
 * Queues copies of all shards into each device's target; per device, what is reached when they are there. Shards are read only, so
 * devices wait for nobody else's copies.
 */
export function gatherShards({ backend, layout, shards, targets, tell }: GatherOptions): DeviceEvent[][] {
  const ranges = cutShards(layout.sizeBytes, backend.devices.length);
  return backend.devices.map((device, g) => {
    const { buffer, after } = present(targets[g], 'target');
    const copyOf = (peer: number, stream: DeviceStream) => {
      const { startBytes, endBytes } = present(ranges[peer], 'range');
      const sizeBytes = endBytes - startBytes;
      if (sizeBytes > 0) stream.copy(buffer, startBytes, present(shards[peer], 'shard').memory, 0, sizeBytes);
      return sizeBytes;
    };
    for (const event of after) device.gather.wait(event);
    for (const { ready } of shards) for (const event of ready) device.gather.wait(event);
    const started = device.gather.record();
    let bytes = 0;
    // Each begins with the next one's, so that no device is asked by all at once.
    for (let turn = 1; turn < shards.length; turn++)
      bytes += copyOf((g + turn) % shards.length, device.gather);
    const ended = device.gather.record();
    tell({ lane: 'gather', device, bytes, started, ended });
    // Its own takes the device's memory only, so it may go on beside what comes from others.
    for (const event of [...after, ...present(shards[g], 'shard').ready]) device.fetch.wait(event);
    copyOf(g, device.fetch);
    return [device.fetch.record(), ended];
  });
}
