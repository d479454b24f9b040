// The buffers of all hops, allocated once from the plan; prefetchers of consecutive sessions share them.

import { assert } from '../errors.js';
import { type DeviceLayout, deviceLayout, gatheredBytes, type HostLayout } from '../model/layout.js';
import type { Plan } from '../plan/plan.js';
import { type GatherBy, partCount } from '../plan/transfer.js';
import type { Backend, DeviceEvent, HostMemory } from '../port/backend.js';
import type { Memory } from '../port/ops.js';
import { BufferPool, type Lease } from './pool.js';
import type { Step } from './schedule.js';
import type { ExpertHome } from './staged-layer.js';

/** What rests on the devices of a layer: all of it, or all but its experts. */
export interface DeviceResident {
  readonly layout: DeviceLayout;
  readonly by: GatherBy;
  /** Per device. */
  readonly memories: readonly Memory[];
  /** Each memory has a shard of the layer, which is gathered into a buffer whenever its turn comes. */
  readonly inShards?: boolean;
  /** Where experts rest that are not in the layout. */
  readonly home?: ExpertHome;
  /** Per device, what compute waits for; undefined until the copies are queued. Nothing is written there afterwards. */
  ready: readonly (readonly DeviceEvent[])[] | undefined;
}

/** A layer in memory of its own, which goes when the lease is released. */
export interface PassingLayer {
  readonly lease: Lease<HostMemory>;
  /** When the bytes are or were there. */
  readonly ready: Promise<number>;
}

/** Undefined where the step's layer passes by, or is computed on in DRAM. */
export function residentFor(
  { onDevices, bases }: Pick<Buffers, 'onDevices' | 'bases'>,
  { layerIndex, chooses }: Step,
): DeviceResident | undefined {
  return onDevices.get(layerIndex) ?? (chooses ? bases.get(layerIndex) : undefined);
}

/** What is read into DRAM once to rest there: a layer, or all but its experts where these come from files. */
export interface HostResident {
  readonly memory: HostMemory;
  readonly layout: HostLayout;
}

/** Undefined where the step's layer passes by, or rests on the devices. */
export function hostResidentFor(
  { residents, hostBases }: Pick<Buffers, 'residents' | 'hostBases'>,
  { layerIndex, chooses }: Step,
): HostResident | undefined {
  return residents.get(layerIndex) ?? (chooses ? hostBases.get(layerIndex) : undefined);
}

export interface Buffers {
  /** Null where no layer streams from a drive, nor passes through DRAM to rest on the devices. */
  readonly host: BufferPool<HostMemory> | null;
  /** One pool per device; empty where the devices compute in place. */
  readonly device: readonly BufferPool<Memory>[];
  /** The layers that rest in DRAM, by layer index. */
  readonly residents: ReadonlyMap<number, HostResident>;
  /** All but the experts of layers whose experts come from files, by layer index; none of them is among the residents. */
  readonly hostBases: ReadonlyMap<number, HostResident>;
  /** Fills begun, by layer index: the first pass is the load. */
  readonly filled: Map<number, Promise<number>>;
  /** Layers that were read ahead and do not rest in DRAM, by layer index: each is taken once, by the first step that brings it. */
  readonly ahead: Map<number, PassingLayer>;
  /** The layers that rest on the devices, by layer index. */
  readonly onDevices: ReadonlyMap<number, DeviceResident>;
  /** The same of all but the experts of layers with slots. */
  readonly bases: ReadonlyMap<number, DeviceResident>;
}

/** @param loaded memory of layers that were read ahead, by layer index */
export function allocateBuffers(
  backend: Pick<Backend, 'devices' | 'allocateHost'>,
  plan: Plan,
  loaded: ReadonlyMap<number, { readonly memory: HostMemory }> = new Map(),
): Buffers {
  const { hostBuffers, deviceBuffers } = plan;
  const host = times(hostBuffers.count, () => backend.allocateHost(hostBuffers.sizeBytes, 'stream'));
  const residents = new Map<number, HostResident>();
  const hostBases = new Map<number, HostResident>();
  const onDevices = new Map<number, DeviceResident>();
  const bases = new Map<number, DeviceResident>();
  const apart = backend.devices.filter((device) => !device.computesInPlace);
  for (const [index, { tier, inShards = false, layout, experts }] of plan.layers.entries()) {
    const ofBase = (layout: DeviceLayout) =>
      apart.map((device) => device.allocate(Math.max(1, layout.sizeBytes)));
    if (experts?.files && apart.length > 0) {
      const base = deviceLayout(experts.files.base);
      bases.set(index, { layout: base, by: 'none', memories: ofBase(base), home: 'files', ready: undefined });
      continue;
    }
    if (experts?.files) {
      const { base } = experts.files;
      const memory = backend.allocateHost(Math.max(1, base.sizeBytes), 'resident');
      hostBases.set(index, { memory, layout: base });
      continue;
    }
    if (tier === 'dram') {
      const home = loaded.get(index)?.memory ?? backend.allocateHost(layout.host.sizeBytes, 'resident');
      residents.set(index, { memory: home, layout: layout.host });
      if (experts) {
        const { base } = experts;
        bases.set(index, { layout: base, by: 'none', memories: ofBase(base), home, ready: undefined });
      }
    }
    if (tier !== 'gpu') continue;
    assert(apart.length === backend.devices.length, 'layers rest on devices that have memory of their own');
    const parts = partCount(plan.transfer, apart.length);
    const whole = gatheredBytes(layout.device.sizeBytes, parts);
    const sizeBytes = inShards ? whole / apart.length : whole;
    const memories = apart.map((device) => device.allocate(sizeBytes));
    const { by } = plan.transfer;
    onDevices.set(index, { layout: layout.device, by, memories, inShards, ready: undefined });
  }
  const passing = plan.layers.some(({ tier, inShards }) => tier !== 'gpu' || inShards) ? apart : [];
  return {
    host: host.length > 0 ? new BufferPool('host', host) : null,
    device: passing.map((device) => {
      const memories = times(deviceBuffers.count, () => device.allocate(deviceBuffers.sizeBytes));
      return new BufferPool(device.name, memories);
    }),
    residents,
    hostBases,
    filled: new Map(),
    ahead: new Map(),
    onDevices,
    bases,
  };
}

/** Remembers that the layer is being read into its memory; one that fails is read again by the next session. */
export function keepFill({ filled }: Buffers, layerIndex: number, ready: Promise<number>): Promise<number> {
  filled.set(layerIndex, ready);
  ready.catch(() => filled.delete(layerIndex));
  return ready;
}

/** Buffers that are out. */
export function leasedCount({ host, device }: Buffers): number {
  return device.reduce((sum, pool) => sum + pool.leased, host?.leased ?? 0);
}

function times<T>(count: number, make: () => T): T[] {
  return Array.from({ length: count }, make);
}
