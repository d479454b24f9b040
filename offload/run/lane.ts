// Some devices and the layers that they compute, all or those of a stage: brings these layers to them, and has them queued.

import { isDeepStrictEqual } from 'node:util';
import { assert, present } from '../errors.js';
import type { Plan } from '../plan/plan.js';
import type { LanePlan } from '../plan/stages.js';
import type { Backend, Device, DeviceEvent, HostMemory } from '../port/backend.js';
import { allocateBuffers, type Buffers, keepFill, leasedCount } from '../stream/buffers.js';
import type { LoadedLayer } from '../stream/load-ahead.js';
import type { Lease } from '../stream/pool.js';
import { Prefetcher } from '../stream/prefetch.js';
import type { RowShare } from '../stream/row-share.js';
import { Schedule, type Step } from '../stream/schedule.js';
import type { WeightSource } from '../stream/weight-source.js';
import type { Trace } from '../trace.js';
import type { DevicePass } from './device-pass.js';
import type { Patience } from './patience.js';

export interface LaneOptions {
  readonly lane: LanePlan;
  readonly backend: Backend;
  readonly source: WeightSource;
  readonly trace: Trace;
  /** Layers that were read ahead, by layer index of the whole plan. */
  readonly loaded: ReadonlyMap<number, LoadedLayer>;
  readonly share: RowShare | undefined;
}

/** One pass through the lane's layers. */
export interface LanePass {
  readonly passIndex: number;
  /** One of each device. */
  readonly devices: readonly DevicePass[];
  /** So many layers may be queued beyond those that the devices have reached. */
  readonly ahead: number;
  /** Before the last of all layers is queued. */
  readonly beforeLast: (() => Promise<void>) | undefined;
  /** Is told of every layer, where devices wait for each other. */
  readonly patience?: Patience | undefined;
}

interface LaneSession {
  readonly schedule: Schedule;
  readonly prefetcher: Prefetcher;
}

export class Lane {
  readonly #options: LaneOptions;
  readonly #buffers: Buffers;
  readonly devices: readonly Device[];
  #session: LaneSession | undefined;
  /** Gives back the memory of layers that were read ahead and have passed by. */
  readonly #passed: (() => void)[] = [];
  /** The passes that came before have queued all of it. */
  #turn: Promise<void> = Promise.resolve();
  /** Layers on their way through the devices, the latest last: of a pass, or of all passes that follow each other closely. */
  #queued: DeviceEvent[][] = [];

  constructor(options: LaneOptions) {
    const { lane, backend, trace, loaded } = options;
    const { plan } = lane;
    this.#options = options;
    this.devices = lane.devices.map((index) => present(backend.devices[index], 'device'));
    const { own, others } = usableOf(loaded, lane);
    for (const { ready, free } of others) {
      const passed = () => this.#passed.push(free);
      ready.then(passed, passed);
    }
    const host = {
      devices: this.devices,
      allocateHost: backend.allocateHost.bind(backend),
    };
    this.#buffers = allocateBuffers(host, plan, own);
    for (const [index, { memory, read, ready, free }] of own) {
      const { layout, tier } = present(plan.layers[index], 'a layer of the plan');
      const endMs = trace.addRead(layout.layer.name, read);
      const filled = Promise.all([endMs, ready]).then(([ms]) => ms);
      // A layer that was read ahead is one whose fill has begun.
      if (tier === 'dram') {
        keepFill(this.#buffers, index, filled);
      } else {
        filled.catch(() => undefined); // whoever takes it is told
        this.#buffers.ahead.set(index, {
          lease: { buffer: memory, after: [], release: () => this.#passed.push(free) },
          ready: filled,
        });
      }
    }
  }

  get plan(): Plan {
    return this.#options.lane.plan;
  }

  get leasedBuffers(): number {
    return leasedCount(this.#buffers);
  }

  /** Starts the cycle of layers: fetching begins now. */
  begin(passLimit: number): void {
    const { lane, backend, source, trace, share } = this.#options;
    const { plan } = lane;
    const schedule = new Schedule(plan.layers.length, passLimit);
    const hops = {
      devices: this.devices,
      collective: backend.collective,
      nowMs: () => backend.nowMs(),
    };
    const buffers = this.#buffers;
    const prefetcher = new Prefetcher({ plan, schedule, backend: hops, source, buffers, trace, rows: share });
    this.#session = { schedule, prefetcher };
    this.#queued = [];
  }

  get schedule(): Schedule {
    return present(this.#session, 'session').schedule;
  }

  /** Buffers are back in their pools, and nothing is read any more. */
  async stop(): Promise<void> {
    // A pass that is still on its way hears of it from the prefetcher.
    await this.#session?.prefetcher.stop();
  }

  /** When all devices idle: giving page-locked memory back waits for them, and they may wait for what is not queued yet. */
  freePassed(): void {
    for (const free of this.#passed.splice(0)) free();
  }

  /** Where passes follow each other through several lanes: each has its turn when those before it have queued theirs here. */
  inTurn(queue: () => Promise<void>): Promise<void> {
    const queued = this.#turn.then(queue);
    this.#turn = queued.catch(() => undefined);
    return queued;
  }

  /** No pass is on its way: what the ones before have queued is reached. */
  forgetQueued(): void {
    this.#queued = [];
  }

  /** Takes each layer as it arrives, has the devices queue it, and gives its buffers back. */
  async queueLayers({ passIndex, devices, ahead, beforeLast, patience }: LanePass): Promise<void> {
    const { prefetcher } = present(this.#session, 'session');
    const { layers } = this.#options.lane.plan;
    for (const [layerIndex, layer] of layers.entries()) {
      await reached(this.#queued[this.#queued.length - ahead] ?? []);
      const staged = await prefetcher.next();
      assert(isStep(staged.step, passIndex, layerIndex), 'layers arrive in the order of the schedule');
      const done: DeviceEvent[] = [];
      try {
        if (layerIndex === layers.length - 1) await beforeLast?.();
        for (const [index, device] of devices.entries()) {
          done.push(device.queueLayer(layer, present(staged.perDevice[index], 'copy')));
        }
      } finally {
        staged.release(done);
      }
      this.#queued.push(done);
      patience?.queued({
        layer: layer.layout.layer.name,
        devices: done.map((end, index) => ({
          name: present(this.devices[index], 'a device').name,
          ready: staged.perDevice[index]?.ready ?? [],
          done: end,
        })),
      });
      if (this.#queued.length > 2 * MOST_LAYERS_AHEAD) this.#queued.splice(0, MOST_LAYERS_AHEAD);
    }
  }

  /** All host buffers, between sessions; none where nothing passes through any. */
  leaseHostBuffers(): Promise<Lease<HostMemory>[]> {
    const pool = this.#buffers.host;
    return Promise.all(Array.from({ length: pool?.count ?? 0 }, () => present(pool, 'pool').acquire()));
  }
}

/** The layers that were read ahead and that the lane can take, by its own index, and those it cannot: what comes expert by expert. */
function usableOf(
  loaded: ReadonlyMap<number, LoadedLayer>,
  { plan, firstLayer }: LanePlan,
): { readonly own: Map<number, LoadedLayer>; readonly others: readonly LoadedLayer[] } {
  const others: LoadedLayer[] = [];
  const own = new Map<number, LoadedLayer>();
  for (const [whole, layer] of loaded) {
    const index = whole - firstLayer;
    const planned = plan.layers[index];
    if (!planned) continue;
    const { tier, experts, layout } = planned;
    const isWhole = tier === 'dram' ? !experts?.files : !experts;
    if (isWhole && isDeepStrictEqual(layout.host.runs, layer.layout.runs)) own.set(index, layer);
    else others.push(layer);
  }
  return { own, others };
}

/** Also after a pass that failed: what was brought for its tokens need not be what others can take. */
function isStep(step: Step, passIndex: number, layerIndex: number): boolean {
  return step.passIndex === passIndex && step.layerIndex === layerIndex;
}

/** A device's queue of kernels is finite, and a full one would stop the JavaScript thread: about this many micro-batches of a layer fit. */
const QUEUED_MICRO_BATCHES = 32;
/** More keeps a device no busier. */
const MOST_LAYERS_AHEAD = 16;

/** How many layers may be queued beyond those that the devices have reached; two at least, so that none runs dry. */
export function layersAhead(microBatches: number): number {
  const fitting = Math.floor(QUEUED_MICRO_BATCHES / Math.max(1, microBatches));
  return Math.min(MOST_LAYERS_AHEAD, Math.max(2, fitting));
}

/** Does not wait for what has been reached. A failed device is reported when the pass ends. */
async function reached(events: readonly DeviceEvent[]): Promise<void> {
  for (const event of events) {
    if (Number.isNaN(event.timeMs)) await event.reached().catch(() => undefined);
  }
}
