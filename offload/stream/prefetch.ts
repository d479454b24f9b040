// The hops as bounded stages: each runs ahead of the next by as many layers as its pool has buffers.

import { present } from '../errors.js';
import type { Plan } from '../plan/plan.js';
import { stepsAhead } from '../plan/steps-ahead.js';
import type { Backend } from '../port/backend.js';
import type { Trace } from '../trace.js';
import type { Buffers } from './buffers.js';
import { Channel } from './channel.js';
import { DeviceHop } from './device-hop.js';
import { DriveHop } from './drive-hop.js';
import { Returns } from './returns.js';
import type { RowShare } from './row-share.js';
import type { Schedule, Step } from './schedule.js';
import type { HostLayer, StagedLayer } from './staged-layer.js';
import type { WeightSource } from './weight-source.js';

const STOPPED = new Error('the prefetcher was stopped');

/** What hops ask of a backend: all of its devices, or some. */
export type HopBackend = Pick<Backend, 'devices' | 'collective' | 'nowMs'>;

export interface PrefetcherOptions {
  readonly plan: Plan;
  readonly schedule: Schedule;
  readonly backend: HopBackend;
  readonly source: WeightSource;
  readonly buffers: Buffers;
  readonly trace: Trace;
  /** Undefined where layers always come whole. */
  readonly rows?: RowShare | undefined;
}

export class Prefetcher {
  readonly #plan: Plan;
  readonly #schedule: Schedule;
  readonly #backend: HopBackend;
  readonly #buffers: Buffers;
  readonly #fromDrive: DriveHop;
  readonly #toDevices: DeviceHop;
  readonly #returns = new Returns();
  readonly #hostLayers: Channel<HostLayer>;
  readonly #staged: Channel<StagedLayer>;
  readonly #stages: Promise<void>[];
  #stopped: { readonly reason: unknown } | undefined;

  constructor({ plan, schedule, backend, source, buffers, trace, rows }: PrefetcherOptions) {
    this.#plan = plan;
    this.#schedule = schedule;
    this.#backend = backend;
    this.#buffers = buffers;
    this.#fromDrive = new DriveHop({ plan, source, buffers, trace });
    const { transfer } = plan;
    this.#toDevices = new DeviceHop({ backend, transfer, buffers, trace, returns: this.#returns, rows });
    const { hostSteps, deviceSteps } = stepsAhead(plan);
    this.#hostLayers = new Channel(hostSteps);
    this.#staged = new Channel(deviceSteps);
    this.#stages = [this.#run(this.#fetchFromDrive()), this.#run(this.#fetchToDevices())];
    // A layer that streams must not wait for those that will be wanted later.
    if (plan.layers.every(({ tier }) => tier === 'dram')) {
      this.#stages.push(this.#fromDrive.fillAhead(() => !this.#stopped));
    }
  }

  /** The next layer of the schedule. Rejects when a hop failed. */
  next(): Promise<StagedLayer> {
    return this.#staged.next();
  }

  /** Ends all stages and gives back every buffer; reads in flight are awaited. Call when compute holds none. */
  async stop(reason: unknown = STOPPED): Promise<void> {
    this.#end(reason);
    await Promise.all(this.#stages);
    await this.#returns.all();
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
    this.#schedule.close();
    this.#hostLayers.fail(this.#stopped.reason);
    this.#staged.fail(this.#stopped.reason);
    for (const item of this.#staged.drain()) item.release([]);
    for (const { ready, lease } of this.#hostLayers.drain()) this.#returns.after(ready, lease);
  }

  /** As many layers ahead as there are host buffers; reads of several layers overlap. */
  async #fetchFromDrive(): Promise<void> {
    for (const next of this.#schedule.steps()) {
      await this.#hostLayers.room();
      // With slots, what a pass needs of a layer depends on how many tokens it has.
      const chooses = this.#plan.slots ? await this.#schedule.chooses(next.passIndex) : false;
      // The end may have come since: nobody would wait for what is begun now.
      if (chooses === undefined || this.#stopped) return;
      const step = { ...next, chooses };
      const item = this.#alreadyThere(step) ?? (await this.#streamed(step));
      if (!item) return;
      this.#hostLayers.push(item);
    }
  }

  /** What rests on the devices or in DRAM. */
  #alreadyThere(step: Step): HostLayer | undefined {
    const { layerIndex } = step;
    const { layout } = present(this.#plan.layers[layerIndex], `layer ${layerIndex}`);
    if (this.#fromDrive.restsOnDevices(step)) {
      return { step, layout, memory: null, ready: Promise.resolve(this.#backend.nowMs()), lease: null };
    }
    const filling = this.#fromDrive.atRest(step);
    return filling && { step, layout, ...filling, lease: null };
  }

  /** Undefined where the end came before a buffer. */
  async #streamed(step: Step): Promise<HostLayer | undefined> {
    const { layout, experts } = present(this.#plan.layers[step.layerIndex], `layer ${step.layerIndex}`);
    const ahead = this.#buffers.ahead.get(step.layerIndex);
    if (ahead) {
      this.#buffers.ahead.delete(step.layerIndex);
      return { step, layout, memory: ahead.lease.buffer, ...ahead };
    }
    // What chooses its experts needs the others nowhere.
    const host = (step.chooses && experts?.files?.base) || layout.host;
    const lease = await present(this.#buffers.host, 'host pool').acquire();
    if (this.#stopped) {
      lease.release();
      return undefined;
    }
    return {
      step,
      layout,
      memory: lease.buffer,
      ready: this.#fromDrive.through(lease, layout.layer.name, host),
      lease,
    };
  }

  /** dram→gpu and gather, or straight through where the devices compute in place. */
  async #fetchToDevices(): Promise<void> {
    for (;;) {
      const item = await this.#hostLayers.next();
      let hostReadyMs: number;
      try {
        hostReadyMs = await item.ready;
        await this.#staged.room();
        const staged = await this.#toDevices.stage(item, hostReadyMs);
        if (this.#stopped) staged.release([]);
        else this.#staged.push(staged);
      } catch (error) {
        this.#returns.after(item.ready, item.lease);
        throw error;
      }
    }
  }
}
