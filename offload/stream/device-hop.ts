// dram→gpu and the gather after it: a layer gets to rest on the devices, passes through their buffers, or stays in DRAM.

import { present } from '../errors.js';
import type { Transfer } from '../plan/transfer.js';
import type { Backend, DeviceEvent } from '../port/backend.js';
import type { Memory } from '../port/ops.js';
import type { Trace } from '../trace.js';
import { type Buffers, type DeviceResident, hostResidentFor, residentFor } from './buffers.js';
import type { Lease } from './pool.js';
import { gatherShards, queueShards } from './rest-shards.js';
import type { Returns } from './returns.js';
import type { RowShare, RowsApart } from './row-share.js';
import type { HostLayer, StagedLayer } from './staged-layer.js';
import { type Arrival, type HopSpan, queueTransfer, type Target } from './transfer.js';

export interface DeviceHopOptions {
  readonly backend: Pick<Backend, 'devices' | 'collective'>;
  readonly transfer: Transfer;
  readonly buffers: Buffers;
  readonly trace: Trace;
  /** Where host buffers go once every device has read its part. */
  readonly returns: Returns;
  /** Undefined where layers always come whole. */
  readonly rows?: RowShare | undefined;
}

export class DeviceHop {
  readonly #backend: DeviceHopOptions['backend'];
  readonly #transfer: Transfer;
  readonly #buffers: Buffers;
  readonly #trace: Trace;
  readonly #returns: Returns;
  readonly #rows: RowShare | undefined;

  constructor({ backend, transfer, buffers, trace, returns, rows }: DeviceHopOptions) {
    this.#backend = backend;
    this.#transfer = transfer;
    this.#buffers = buffers;
    this.#trace = trace;
    this.#returns = returns;
    this.#rows = rows;
  }

  /** Buffers of the devices may have to be waited for. */
  stage(item: HostLayer, hostReadyMs: number): StagedLayer | Promise<StagedLayer> {
    const resident = residentFor(this.#buffers, item.step);
    if (resident?.inShards) return this.#gathered(item, hostReadyMs, resident);
    if (resident) return this.#atRest(item, hostReadyMs, resident);
    const inPlace = this.#backend.devices.every((device) => device.computesInPlace);
    return inPlace ? this.#inPlace(item, hostReadyMs) : this.#pass(item, hostReadyMs);
  }

  #inPlace(item: HostLayer, hostReadyMs: number): StagedLayer {
    const memory = present(item.memory, 'memory');
    const { placements } = hostResidentFor(this.#buffers, item.step)?.layout ?? item.layout.host;
    const home = this.#buffers.hostBases.get(item.step.layerIndex)?.memory === memory ? 'files' : undefined;
    const copy = { memory, placements, ready: [], rests: false, home } as const;
    return {
      step: item.step,
      hostReadyMs,
      perDevice: this.#backend.devices.map(() => copy),
      release: (done) => this.#returns.when(done, item.lease),
    };
  }

  /** A layer that rests on the devices is copied there once and never written again, so nobody waits for its readers. */
  #atRest(item: HostLayer, hostReadyMs: number, resident: DeviceResident): StagedLayer {
    const { layout, home, memories } = resident;
    resident.ready ??= this.#queue(
      item,
      resident,
      memories.map((buffer) => ({ buffer, after: [] })),
    ).map(({ fetched, gathered }) => [fetched, gathered]);
    const ready = resident.ready;
    return {
      step: item.step,
      hostReadyMs,
      perDevice: memories.map((memory, g) => ({
        memory,
        placements: layout.placements,
        ready: present(ready[g], 'events'),
        rests: true,
        home,
      })),
      release: () => undefined,
    };
  }

  /** A layer that rests in shards is gathered into a buffer of each device; shards are never written again. */
  async #gathered(item: HostLayer, hostReadyMs: number, resident: DeviceResident): Promise<StagedLayer> {
    const { layout, memories } = resident;
    // Buffers first: where there are none any more, the host buffer is still this item's to give back.
    const leases = await this.#leases();
    // Streams keep their order, so each waits for shards once.
    const awaited = resident.ready !== undefined;
    resident.ready ??= this.#fetchShards(item, resident);
    const shards = resident.ready;
    const gathered = gatherShards({
      backend: this.#backend,
      layout,
      shards: memories.map((memory, g) => ({ memory, ready: awaited ? [] : present(shards[g], 'events') })),
      targets: leases,
      tell: (span) => this.#tell(item, span),
    });
    return {
      step: item.step,
      hostReadyMs,
      perDevice: leases.map(({ buffer }, g) => ({
        memory: buffer,
        placements: layout.placements,
        ready: present(gathered[g], 'events'),
        rests: false,
      })),
      // Nobody but its own device reads a buffer.
      release: (done) => {
        for (const [g, lease] of leases.entries())
          lease.release(lastOf(done[g], present(gathered[g], 'events')));
      },
    };
  }

  #fetchShards(item: HostLayer, { layout, memories }: DeviceResident): DeviceEvent[][] {
    const fetched = queueShards({
      backend: this.#backend,
      layout,
      from: present(item.memory, 'the layer in DRAM'),
      memories,
      tell: (span) => this.#tell(item, span),
    });
    this.#returns.when(fetched, item.lease);
    return fetched.map((event) => [event]);
  }

  async #leases(): Promise<Lease<Memory>[]> {
    const leases: Lease<Memory>[] = [];
    try {
      for (const pool of this.#buffers.device) leases.push(await pool.acquire());
    } catch (error) {
      for (const lease of leases) lease.release(lease.after);
      throw error;
    }
    return leases;
  }

  #tell({ layout }: HostLayer, { lane, device, bytes, started, ended }: HopSpan): void {
    const { name } = layout.layer;
    this.#trace.addWhenReached({ lane, owner: device.name, name, bytes }, started, ended);
  }

  /** Through a buffer of each device. */
  async #pass(item: HostLayer, hostReadyMs: number): Promise<StagedLayer> {
    const leases = await this.#leases();
    const cut = this.#rows?.cutFor(item.step.layerIndex);
    const layout = cut ? { ...item.layout.device, copies: cut.travelling } : item.layout.device;
    let started: DeviceEvent | undefined;
    const arrivals = this.#queue(item, { layout, by: this.#transfer.by }, leases, (span) => {
      started ??= span.started;
    });
    const apart = (ended: DeviceEvent): RowsApart | undefined =>
      cut && {
        cut,
        home: present(item.memory, 'the layer in DRAM'),
        fetched: { started: present(started, 'event'), ended },
      };
    // Peers read from a buffer while they gather, so their gathers must end as well; of whole layers every device has
    // one to itself.
    const whole = this.#transfer.kind !== 'shards';
    return {
      step: item.step,
      hostReadyMs,
      perDevice: arrivals.map(({ fetched, gathered }, g) => ({
        memory: present(leases[g], 'lease').buffer,
        placements: item.layout.device.placements,
        ready: [fetched, gathered],
        rests: false,
        apart: apart(fetched),
      })),
      release: (done) => {
        for (const [g, lease] of leases.entries()) {
          const { fetched, gathered } = present(arrivals[g], 'arrival');
          const own = lastOf(done[g], [fetched, gathered]);
          const peers = whole ? [] : arrivals.filter((_, peer) => peer !== g).map(({ gathered }) => gathered);
          lease.release([...own, ...peers]);
        }
      },
    };
  }

  /** Queues all of the layer's way, and sees to it that the host buffer goes back once every device has read its part. */
  #queue(
    item: HostLayer,
    { layout, by }: Pick<DeviceResident, 'layout' | 'by'>,
    targets: readonly Target[],
    hear: (span: HopSpan) => void = () => undefined,
  ): Arrival[] {
    const from = present(item.memory, 'the layer in DRAM');
    const arrivals = queueTransfer({
      backend: this.#backend,
      by,
      layout,
      from,
      targets,
      tell: (span) => {
        this.#tell(item, span);
        hear(span);
      },
    });
    this.#returns.when(
      arrivals.map(({ fetched }) => fetched),
      item.lease,
    );
    return arrivals;
  }
}

/** Who has computed with a buffer has waited for what came into it. */
function lastOf(done: DeviceEvent | undefined, came: readonly DeviceEvent[]): readonly DeviceEvent[] {
  return done ? [done] : came;
}
