// The hops as bounded stages: each runs ahead of the next by as many layers as its pool has buffers.

import type { Backend, Device, DeviceEvent, HostMemory } from './backend.js';
import type { Buffers } from './buffers.js';
import { Channel } from './channel.js';
import { present } from './errors.js';
import { copiesOfShard, cutShards, type LayerLayout, type Placement } from './layout.js';
import type { Memory } from './ops.js';
import type { Plan } from './plan.js';
import type { Lease } from './pool.js';
import type { Schedule, Step } from './schedule.js';
import type { Trace } from './trace.js';
import type { WeightSource } from './weight-source.js';

/** A layer's bytes where one device computes on them. */
export interface DeviceCopy {
  readonly memory: Memory;
  readonly placements: readonly Placement[];
  /** Compute waits for these. */
  readonly ready: readonly DeviceEvent[];
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

/** A layer in DRAM, or on its way there. */
interface HostLayer {
  readonly step: Step;
  readonly layout: LayerLayout;
  readonly memory: HostMemory;
  /** Resolves with the time the bytes were there. */
  readonly ready: Promise<number>;
  /** Null for a layer that rests in DRAM. */
  readonly lease: Lease<HostMemory> | null;
}

const STOPPED = new Error('the prefetcher was stopped');

export class Prefetcher {
  readonly #plan: Plan;
  readonly #schedule: Schedule;
  readonly #backend: Backend;
  readonly #source: WeightSource;
  readonly #buffers: Buffers;
  readonly #trace: Trace;
  readonly #hostLayers: Channel<HostLayer>;
  readonly #staged: Channel<StagedLayer>;
  readonly #stages: Promise<void>[];
  /** Host buffers that somebody still reads or fills, on their way back to the pool. */
  readonly #returning = new Set<Promise<void>>();
  #stopped: { readonly reason: unknown } | undefined;

  constructor(
    plan: Plan,
    schedule: Schedule,
    backend: Backend,
    source: WeightSource,
    buffers: Buffers,
    trace: Trace,
  ) {
    this.#plan = plan;
    this.#schedule = schedule;
    this.#backend = backend;
    this.#source = source;
    this.#buffers = buffers;
    this.#trace = trace;
    this.#hostLayers = new Channel(plan.hostBuffers.count || 2);
    this.#staged = new Channel(plan.deviceBuffers.count || 2);
    this.#stages = [this.#run(this.#fetchFromDrive()), this.#run(this.#fetchToDevices())];
  }

  /** The next layer of the schedule. Rejects when a hop failed. */
  next(): Promise<StagedLayer> {
    return this.#staged.next();
  }

  /** Ends all stages and gives back every buffer; reads in flight are awaited. Call when compute holds none. */
  async stop(reason: unknown = STOPPED): Promise<void> {
    this.#end(reason);
    await Promise.all(this.#stages);
    await Promise.all(this.#returning);
  }

  /** A stage that fails ends the others and whoever waits for a layer. */
  async #run(stage: Promise<void>): Promise<void> {
    try {
      await stage;
    } catch (error) {
      this.#end(error);
    }
  }

  #end(reason: unknown): void {
    this.#stopped ??= { reason };
    this.#hostLayers.fail(this.#stopped.reason);
    this.#staged.fail(this.#stopped.reason);
    for (const item of this.#staged.drain()) item.release([]);
    for (const item of this.#hostLayers.drain()) this.#giveBack(item);
  }

  /** A buffer that a read still fills must not be leased again. */
  #giveBack({ ready, lease }: HostLayer): void {
    this.#returnAfter(ready, lease);
  }

  /** The host waits for the device only here: a host buffer is refilled by a drive, which cannot wait for events. */
  #releaseWhen(lease: Lease<HostMemory> | null, done: readonly DeviceEvent[]): void {
    if (!lease) return;
    if (done.length === 0) lease.release();
    else this.#returnAfter(Promise.all(done.map((event) => event.reached())), lease);
  }

  #returnAfter(settled: Promise<unknown>, lease: Lease<HostMemory> | null): void {
    const release = () => lease?.release();
    const returning = settled.then(release, release).then(() => {
      this.#returning.delete(returning);
    });
    this.#returning.add(returning);
  }

  /** nvme→dram: as many layers ahead as there are host buffers; reads of several layers overlap. */
  async #fetchFromDrive(): Promise<void> {
    for (const step of this.#schedule.steps()) {
      await this.#hostLayers.room();
      const layer = present(this.#plan.layers[step.layerIndex], `layer ${step.layerIndex}`);
      const resident = this.#buffers.residents.get(step.layerIndex);
      if (resident) {
        const ready = this.#fillResident(step.layerIndex, layer.layout, resident);
        this.#hostLayers.push({ step, layout: layer.layout, memory: resident, ready, lease: null });
        continue;
      }
      const lease = await present(this.#buffers.host, 'host pool').acquire();
      if (this.#stopped) {
        lease.release();
        return;
      }
      const ready = this.#read(layer.layout, lease.buffer);
      this.#hostLayers.push({ step, layout: layer.layout, memory: lease.buffer, ready, lease });
    }
  }

  #fillResident(layerIndex: number, layout: LayerLayout, memory: HostMemory): Promise<number> {
    let ready = this.#buffers.filled.get(layerIndex);
    if (!ready) {
      ready = this.#read(layout, memory);
      this.#buffers.filled.set(layerIndex, ready);
      // A fill that failed is tried again by the next session.
      ready.catch(() => this.#buffers.filled.delete(layerIndex));
    }
    return ready;
  }

  #read(layout: LayerLayout, into: HostMemory): Promise<number> {
    const ready = this.#source.readLayer(layout.host, into).then((span) => {
      this.#trace.add({ lane: 'nvme→dram', owner: 'drive', name: layout.layer.name, ...span });
      return span.endMs;
    });
    // Whoever consumes the layer sees the error; until then it is not unhandled.
    ready.catch(() => undefined);
    return ready;
  }

  /** dram→gpu and gather, or straight through where the devices compute in place. */
  async #fetchToDevices(): Promise<void> {
    for (;;) {
      const item = await this.#hostLayers.next();
      let hostReadyMs: number;
      try {
        hostReadyMs = await item.ready;
        await this.#staged.room();
        const staged = this.#backend.devices.every((device) => device.computesInPlace)
          ? this.#inPlace(item, hostReadyMs)
          : await this.#copyAndGather(item, hostReadyMs);
        if (this.#stopped) staged.release([]);
        else this.#staged.push(staged);
      } catch (error) {
        this.#giveBack(item);
        throw error;
      }
    }
  }

  #inPlace(item: HostLayer, hostReadyMs: number): StagedLayer {
    const copy = { memory: item.memory, placements: item.layout.host.placements, ready: [] };
    return {
      step: item.step,
      hostReadyMs,
      perDevice: this.#backend.devices.map(() => copy),
      release: (done) => this.#releaseWhen(item.lease, done),
    };
  }

  /** Device g pulls shard g of the layer over its own link, then takes the other shards from its peers. */
  async #copyAndGather(item: HostLayer, hostReadyMs: number): Promise<StagedLayer> {
    const { devices } = this.#backend;
    const layout = item.layout.device;
    const shards = cutShards(layout.sizeBytes, devices.length);
    const leases: Lease<Memory>[] = [];
    try {
      for (const pool of this.#buffers.device) leases.push(await pool.acquire());
    } catch (error) {
      for (const lease of leases) lease.release(lease.after);
      throw error;
    }
    const name = item.layout.layer.name;
    const fetched = devices.map((device, g) => {
      const lease = present(leases[g], 'lease');
      for (const event of lease.after) device.fetch.wait(event);
      const started = device.fetch.record();
      const pieces = copiesOfShard(layout, present(shards[g], 'shard'));
      for (const piece of pieces) {
        device.fetch.copy(lease.buffer, piece.deviceOffset, item.memory, piece.hostOffset, piece.sizeBytes);
      }
      const ended = device.fetch.record();
      const bytes = pieces.reduce((sum, piece) => sum + piece.sizeBytes, 0);
      this.#traceWhenReached('dram→gpu', device, name, started, ended, bytes);
      return ended;
    });
    const ready = devices.length === 1 ? fetched : this.#gather(devices, leases, shards, fetched, name);
    this.#releaseWhen(item.lease, fetched);
    return {
      step: item.step,
      hostReadyMs,
      perDevice: devices.map((_, g) => ({
        memory: present(leases[g], 'lease').buffer,
        placements: layout.placements,
        ready: [present(fetched[g], 'event'), present(ready[g], 'event')],
      })),
      release: (done) => {
        // Peers read from this buffer while they gather, so their gathers must end as well.
        for (const lease of leases) lease.release([...done, ...fetched, ...ready]);
      },
    };
  }

  #gather(
    devices: readonly Device[],
    leases: readonly Lease<Memory>[],
    shards: readonly { startBytes: number; endBytes: number }[],
    fetched: readonly DeviceEvent[],
    name: string,
  ): DeviceEvent[] {
    return devices.map((device, g) => {
      const mine = present(leases[g], 'lease');
      // The buffer's former readers must be done before peers' shards overwrite it.
      for (const event of mine.after) device.gather.wait(event);
      let started: DeviceEvent | undefined;
      let bytes = 0;
      shards.forEach((shard, peer) => {
        if (peer === g || shard.startBytes === shard.endBytes) return;
        device.gather.wait(present(fetched[peer], 'event'));
        started ??= device.gather.record();
        const sizeBytes = shard.endBytes - shard.startBytes;
        const from = present(leases[peer], 'lease').buffer;
        device.gather.copy(mine.buffer, shard.startBytes, from, shard.startBytes, sizeBytes);
        bytes += sizeBytes;
      });
      const ended = device.gather.record();
      this.#traceWhenReached('gather', device, name, started ?? ended, ended, bytes);
      return ended;
    });
  }

  #traceWhenReached(
    lane: 'dram→gpu' | 'gather',
    device: Device,
    name: string,
    started: DeviceEvent,
    ended: DeviceEvent,
    bytes: number,
  ): void {
    ended.reached().then(
      () =>
        this.#trace.add({
          lane,
          owner: device.name,
          name,
          startMs: started.timeMs,
          endMs: ended.timeMs,
          bytes,
        }),
      () => undefined,
    );
  }
}
