// The hops as bounded stages: each runs ahead of the next by as many layers as its pool has buffers.

import { present } from '../errors.js';
import type { LayerLayout, Placement } from '../model/layout.js';
import { type Plan, stepsAhead } from '../plan/plan.js';
import type { Backend, DeviceEvent, HostMemory } from '../port/backend.js';
import type { Memory } from '../port/ops.js';
import type { Trace } from '../trace.js';
import { type Buffers, type DeviceResident, keepFill } from './buffers.js';
import { Channel } from './channel.js';
import type { Lease } from './pool.js';
import type { Schedule, Step } from './schedule.js';
import { type Arrival, queueTransfer, type Target } from './transfer.js';
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

/** A layer in DRAM, on its way there, or at rest on the devices. */
interface HostLayer {
  readonly step: Step;
  readonly layout: LayerLayout;
  /** Null for a layer that rests on the devices, once its copies are queued before this step's turn. */
  readonly memory: HostMemory | null;
  /** Resolves with the time the bytes were there. */
  readonly ready: Promise<number>;
  /** Null for a layer that rests in DRAM. */
  readonly lease: Lease<HostMemory> | null;
}

/** How many steps the stages run ahead: one waits for room in the other's channel, and the pass takes from the last. */
export function prefetchSteps(plan: Pick<Plan, 'layers' | 'hostBuffers' | 'deviceBuffers'>): {
  readonly hostSteps: number;
  readonly deviceSteps: number;
} {
  const passesBy = ({ tier }: { readonly tier: string }) => tier !== 'gpu';
  return {
    hostSteps: stepsAhead(plan.layers, passesBy, plan.hostBuffers.count),
    deviceSteps: stepsAhead(plan.layers, passesBy, plan.deviceBuffers.count),
  };
}

/** Reads of so many layers are queued, so that the drive goes on while JavaScript is busy. */
const FILLING_LAYERS = 8;

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
  /** Layers that this session brings to the devices to rest there; what fails is tried again by the next one. */
  readonly #loading = new Set<number>();
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
    const { hostSteps, deviceSteps } = prefetchSteps(plan);
    this.#hostLayers = new Channel(hostSteps);
    this.#staged = new Channel(deviceSteps);
    this.#stages = [this.#run(this.#fetchFromDrive()), this.#run(this.#fetchToDevices())];
    // A layer that streams must not wait for those that will be wanted later.
    if (plan.layers.every(({ tier }) => tier === 'dram')) this.#stages.push(this.#fillAhead());
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
    // All of them: where one device has failed, others still read.
    else this.#returnAfter(Promise.allSettled(done.map((event) => event.reached())), lease);
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
      if (this.#restsOnDevices(step.layerIndex)) {
        const ready = Promise.resolve(this.#backend.nowMs());
        this.#hostLayers.push({ step, layout: layer.layout, memory: null, ready, lease: null });
        continue;
      }
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

  /** All layers into DRAM, however far the pass has come. Whoever waits for a layer is told of a failure. */
  async #fillAhead(): Promise<void> {
    const filling: Promise<number>[] = [];
    try {
      for (const [index, { layout }] of this.#plan.layers.entries()) {
        if (filling.length === FILLING_LAYERS) await filling.shift();
        if (this.#stopped) break;
        const memory = present(this.#buffers.residents.get(index), 'memory of a resident layer');
        filling.push(this.#fillResident(index, layout, memory));
      }
    } catch {
      // Nothing is to follow a layer that cannot be read.
    }
    await Promise.allSettled(filling);
  }

  /** False for the first step that brings the layer there. */
  #restsOnDevices(layerIndex: number): boolean {
    const resident = this.#buffers.onDevices.get(layerIndex);
    if (!resident) return false;
    if (resident.ready || this.#loading.has(layerIndex)) return true;
    this.#loading.add(layerIndex);
    return false;
  }

  #fillResident(layerIndex: number, layout: LayerLayout, memory: HostMemory): Promise<number> {
    const begun = this.#buffers.filled.get(layerIndex);
    return begun ?? keepFill(this.#buffers, layerIndex, this.#read(layout, memory));
  }

  #read(layout: LayerLayout, into: HostMemory): Promise<number> {
    const ready = this.#trace.addRead(layout.layer.name, this.#source.readLayer(layout.host, into));
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
        const staged = await this.#stage(item, hostReadyMs);
        if (this.#stopped) staged.release([]);
        else this.#staged.push(staged);
      } catch (error) {
        this.#giveBack(item);
        throw error;
      }
    }
  }

  #stage(item: HostLayer, hostReadyMs: number): StagedLayer | Promise<StagedLayer> {
    const resident = this.#buffers.onDevices.get(item.step.layerIndex);
    if (resident) return this.#atRest(item, hostReadyMs, resident);
    const inPlace = this.#backend.devices.every((device) => device.computesInPlace);
    return inPlace ? this.#inPlace(item, hostReadyMs) : this.#pass(item, hostReadyMs);
  }

  #inPlace(item: HostLayer, hostReadyMs: number): StagedLayer {
    const memory = present(item.memory, 'memory');
    const copy = { memory, placements: item.layout.host.placements, ready: [] };
    return {
      step: item.step,
      hostReadyMs,
      perDevice: this.#backend.devices.map(() => copy),
      release: (done) => this.#releaseWhen(item.lease, done),
    };
  }

  /** A layer that rests on the devices is copied there once and never written again, so nobody waits for its readers. */
  #atRest(item: HostLayer, hostReadyMs: number, resident: DeviceResident): StagedLayer {
    resident.ready ??= this.#transfer(
      item,
      resident.memories.map((buffer) => ({ buffer, after: [] })),
    ).map(({ fetched, gathered }) => [fetched, gathered]);
    const ready = resident.ready;
    return {
      step: item.step,
      hostReadyMs,
      perDevice: resident.memories.map((memory, g) => ({
        memory,
        placements: item.layout.device.placements,
        ready: present(ready[g], 'events'),
      })),
      release: () => undefined,
    };
  }

  /** Through a buffer of each device. */
  async #pass(item: HostLayer, hostReadyMs: number): Promise<StagedLayer> {
    const leases: Lease<Memory>[] = [];
    try {
      for (const pool of this.#buffers.device) leases.push(await pool.acquire());
    } catch (error) {
      for (const lease of leases) lease.release(lease.after);
      throw error;
    }
    const arrivals = this.#transfer(item, leases);
    const events = arrivals.map(({ fetched, gathered }) => [fetched, gathered]);
    // Peers read from a buffer while they gather, so their gathers must end as well; of whole layers every device has
    // one to itself.
    const whole = this.#plan.transfer.kind === 'whole';
    return {
      step: item.step,
      hostReadyMs,
      perDevice: arrivals.map(({ fetched, gathered }, g) => ({
        memory: present(leases[g], 'lease').buffer,
        placements: item.layout.device.placements,
        ready: [fetched, gathered],
      })),
      release: (done) => {
        for (const [g, lease] of leases.entries()) {
          lease.release(
            whole ? [...done.slice(g, g + 1), ...(events[g] ?? [])] : [...done, ...events.flat()],
          );
        }
      },
    };
  }

  /** Queues all of the layer's way, and sees to it that the host buffer goes back once every device has read its part. */
  #transfer(item: HostLayer, targets: readonly Target[]): Arrival[] {
    const from = present(item.memory, 'the layer in DRAM');
    const { name } = item.layout.layer;
    const arrivals = queueTransfer(
      this.#backend,
      this.#plan.transfer.by,
      item.layout.device,
      from,
      targets,
      (lane, { name: owner }, bytes, started, ended) =>
        this.#trace.addWhenReached({ lane, owner, name, bytes }, started, ended),
    );
    this.#releaseWhen(
      item.lease,
      arrivals.map(({ fetched }) => fetched),
    );
    return arrivals;
  }
}
