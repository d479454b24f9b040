// How a layer in DRAM reaches several devices: in shards that they gather from each other, or whole over each one's link.

import { present } from '../errors.js';
import {
  type CopyPiece,
  type CopyRows,
  copiesOfShard,
  cutShards,
  type DeviceLayout,
  type Shard,
} from '../model/layout.js';
import type { GatherBy } from '../plan/transfer.js';
import type { Backend, Device, DeviceEvent, HostMemory } from '../port/backend.js';
import type { Memory } from '../port/ops.js';

/** Where a layer goes on one device, and the queued work that must end before. */
export interface Target {
  readonly buffer: Memory;
  readonly after: readonly DeviceEvent[];
}

/** What must be reached until the layer is on a device; the same event twice where nothing is gathered. */
export interface Arrival {
  readonly fetched: DeviceEvent;
  readonly gathered: DeviceEvent;
}

/** A layer's time on one hop to one device. */
export interface HopSpan {
  readonly lane: 'dram→gpu' | 'gather';
  readonly device: Device;
  readonly bytes: number;
  readonly started: DeviceEvent;
  readonly ended: DeviceEvent;
}

export interface LayerTransfer {
  readonly backend: Pick<Backend, 'devices' | 'collective'>;
  readonly by: GatherBy;
  readonly layout: DeviceLayout;
  readonly from: HostMemory;
  /** Per device. */
  readonly targets: readonly Target[];
  /** Is told of every span of both hops. */
  readonly tell: (span: HopSpan) => void;
}

/** Queues a layer's way from DRAM to one target per device. Nothing here waits. */
export function queueTransfer(transfer: LayerTransfer): Arrival[] {
  const { backend, by, layout, from, targets, tell } = transfer;
  const { devices } = backend;
  const whole = { startBytes: 0, endBytes: layout.sizeBytes };
  const shards = by === 'none' ? devices.map(() => whole) : cutShards(layout.sizeBytes, devices.length);
  const fetched = devices.map((device, g) => {
    const { buffer, after } = present(targets[g], 'target');
    for (const event of after) device.fetch.wait(event);
    const pieces = copiesOfShard(layout, present(shards[g], 'shard'));
    return queueFetch(device, { from, to: buffer, pieces, slices: layout.slices[g], tell });
  });
  const gathered = gather(transfer, shards, fetched);
  return fetched.map((event, g) => ({ fetched: event, gathered: present(gathered[g], 'event') }));
}

export interface Fetch {
  readonly from: HostMemory;
  readonly to: Memory;
  /** The byte of the layer that `to` begins with; default its first. */
  readonly startBytes?: number;
  readonly pieces: readonly CopyPiece[];
  readonly slices?: readonly CopyRows[] | undefined;
  readonly tell: (span: HopSpan) => void;
}

/** Queues a device's own part of a layer over its own link; reached when it is there. */
export function queueFetch(device: Device, fetch: Fetch): DeviceEvent {
  const { from, to, startBytes = 0, pieces, slices = [], tell } = fetch;
  const started = device.fetch.record();
  for (const { deviceOffset, hostOffset, sizeBytes } of pieces) {
    device.fetch.copy(to, deviceOffset - startBytes, from, hostOffset, sizeBytes);
  }
  for (const slice of slices) queueSlice(device, to, from, slice);
  const ended = device.fetch.record();
  const bytes =
    pieces.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) +
    slices.reduce((sum, { rowBytes, rows }) => sum + rowBytes * rows, 0);
  tell({ lane: 'dram→gpu', device, bytes, started, ended });
  return ended;
}

function queueSlice(device: Device, to: Memory, from: HostMemory, slice: CopyRows): void {
  const { hostOffset, hostStrideBytes, deviceOffset, deviceStrideBytes, rowBytes, rows } = slice;
  device.fetch.copyRows({
    to,
    toOffsetBytes: deviceOffset,
    toStrideBytes: deviceStrideBytes,
    from,
    fromOffsetBytes: hostOffset,
    fromStrideBytes: hostStrideBytes,
    rowBytes,
    rows,
  });
}

function gather(
  transfer: LayerTransfer,
  shards: readonly Shard[],
  fetched: readonly DeviceEvent[],
): readonly DeviceEvent[] {
  const { by, backend } = transfer;
  if (by === 'none' || backend.devices.length === 1) return fetched;
  return by === 'peer'
    ? gatherFromPeers(transfer, shards, fetched)
    : gatherTogether(transfer, shards, fetched);
}

/** Each device copies the others' shards as soon as each is there. */
function gatherFromPeers(
  { backend: { devices }, targets, tell }: LayerTransfer,
  shards: readonly Shard[],
  fetched: readonly DeviceEvent[],
): DeviceEvent[] {
  return devices.map((device, g) => {
    const mine = present(targets[g], 'target');
    // The buffer's former readers must be done before peers' shards overwrite it.
    for (const event of mine.after) device.gather.wait(event);
    let started: DeviceEvent | undefined;
    let bytes = 0;
    shards.forEach((shard, peer) => {
      if (peer === g || shard.startBytes === shard.endBytes) return;
      device.gather.wait(present(fetched[peer], 'event'));
      started ??= device.gather.record();
      const sizeBytes = shard.endBytes - shard.startBytes;
      const from = present(targets[peer], 'target').buffer;
      device.gather.copy(mine.buffer, shard.startBytes, from, shard.startBytes, sizeBytes);
      bytes += sizeBytes;
    });
    const ended = device.gather.record();
    tell({ lane: 'gather', device, bytes, started: started ?? ended, ended });
    return ended;
  });
}

/** All devices begin when all shards are there: each one's part writes into the buffers of the others. */
function gatherTogether(
  { backend: { devices, collective }, targets, tell }: LayerTransfer,
  shards: readonly Shard[],
  fetched: readonly DeviceEvent[],
): DeviceEvent[] {
  // A shard was fetched after its buffer's former readers were done, so these waits are for them as well.
  for (const device of devices) for (const event of fetched) device.gather.wait(event);
  const started = devices.map((device) => device.gather.record());
  const [first] = shards;
  present(collective, 'what gathers on all devices together').gather(
    targets.map(({ buffer }) => buffer),
    first ? first.endBytes - first.startBytes : 0,
  );
  return devices.map((device, g) => {
    const ended = device.gather.record();
    const bytes = shards.reduce(
      (sum, { startBytes, endBytes }, peer) => sum + (peer === g ? 0 : endBytes - startBytes),
      0,
    );
    tell({ lane: 'gather', device, bytes, started: present(started[g], 'event'), ended });
    return ended;
  });
}
