// Runs passes: takes each layer as it arrives, has every device queue its work on it, and gives the buffer back.

import { assert, present } from '../errors.js';
import { layoutLayer } from '../model/layout.js';
import type { ModelSpec } from '../model/model.js';
import type { WeightFile } from '../model/stripes.js';
import { leavesRows } from '../plan/host-rows.js';
import type { Plan, RowsPlan, SlotPlan } from '../plan/plan.js';
import { choosesExperts } from '../plan/slots.js';
import type { Backend, DeviceEvent, HostMemory, ReadSpan } from '../port/backend.js';
import type { ShareRates } from '../port/shares.js';
import { allocateBuffers, type Buffers, keepFill, leasedCount } from '../stream/buffers.js';
import type { LoadedLayer } from '../stream/load-ahead.js';
import { Prefetcher } from '../stream/prefetch.js';
import { measureReadLimit, type ReadLimit } from '../stream/read-limit.js';
import { RowCache } from '../stream/row-cache.js';
import { type RowCounts, RowShare } from '../stream/row-share.js';
import { Schedule, type Step } from '../stream/schedule.js';
import { WeightSource } from '../stream/weight-source.js';
import type { Trace } from '../trace.js';
import { DevicePass } from './device-pass.js';
import type { SlotCounts } from './device-slots.js';
import { makeDeviceState } from './device-state.js';
import { joinFolded, nllOf } from './log-probs.js';
import { type Pass, tokenCount } from './pass.js';
import type { PassResult } from './results.js';

export interface ExecutorOptions {
  readonly model: ModelSpec;
  readonly plan: Plan;
  readonly backend: Backend;
  /** The files of the weights, in the order of the model's extents. */
  readonly paths: readonly WeightFile[];
  readonly trace: Trace;
  /** Layers that were read ahead, by layer index: some of those that rest in DRAM by the plan. */
  readonly loaded?: ReadonlyMap<number, LoadedLayer> | undefined;
  /** Is told what a user may want to know while it runs. */
  readonly tell?: ((what: string) => void) | undefined;
}

export class Executor {
  readonly #model: ModelSpec;
  readonly #plan: Plan;
  readonly #backend: Backend;
  readonly #source: WeightSource;
  readonly #trace: Trace;
  readonly #buffers: Buffers;
  readonly #rowCaches: readonly RowCache[];
  readonly #devices: readonly DevicePass[];
  readonly #share: RowShare | undefined;
  #session: { readonly schedule: Schedule; readonly prefetcher: Prefetcher; nextPass: number } | undefined;
  #running: Promise<unknown> | undefined;

  private constructor(options: ExecutorOptions, source: WeightSource, fixedHost: HostMemory) {
    const { model, plan, backend, trace, loaded = new Map(), tell = () => undefined } = options;
    this.#model = model;
    this.#plan = plan;
    this.#backend = backend;
    this.#source = source;
    this.#trace = trace;
    this.#buffers = allocateBuffers(backend, plan, loaded);
    for (const [index, layer] of loaded) this.#takeIn(index, layer);
    const rowCaches = model.tables.map((table, index) => {
      const memory = backend.allocateHost(present(plan.rowCacheBytes[index], 'row cache size'), 'control');
      const onRead = (span: ReadSpan) =>
        trace.add({ lane: 'rows', owner: 'drive', name: table.key, ...span });
      return new RowCache(table, source, memory, onRead);
    });
    this.#rowCaches = rowCaches;
    this.#share = plan.rows && new RowShare(plan, tell);
    const fixed = { layout: layoutLayer(model.fixed), host: fixedHost };
    const { sumRoundBytes } = plan;
    const exchanges = sumRoundBytes === undefined ? [] : backend.openExchange(backend.devices, sumRoundBytes);
    this.#devices = backend.devices.map((device, index) => {
      const exchange = exchanges[index];
      const state = makeDeviceState({ backend, device, model, plan, source, fixed, trace, exchange });
      return new DevicePass({ model, plan, state, rowCaches, trace, share: this.#share });
    });
  }

  /**
   * Opens the files, reads the few weights that stay on the device and allocates everything the plan states.
   * Layers are not read here: the first pass is the load. Rejects with an OperatingError.
   */
  static async create(options: ExecutorOptions): Promise<Executor> {
    const { model, backend, paths } = options;
    const source = new WeightSource(backend, paths);
    const { host } = layoutLayer(model.fixed);
    const fixedHost = backend.allocateHost(Math.max(1, host.sizeBytes), 'control');
    if (host.runs.length > 0) await source.readLayer(host, fixedHost, true);
    return new Executor(options, source, fixedHost);
  }

  get plan(): Plan {
    return this.#plan;
  }

  get model(): ModelSpec {
    return this.#model;
  }

  /** Batches that are computed at once: each device has one, or all of them together. */
  get batchCount(): number {
    return this.#model.shares ? 1 : this.#devices.length;
  }

  /** Buffers that are out: none between sessions. */
  get leasedBuffers(): number {
    return leasedCount(this.#buffers);
  }

  /** How often a chosen expert lay in a slot, on all devices together; undefined without slots. Waits for the devices. */
  async slotCounts(): Promise<SlotCounts | undefined> {
    if (!this.#plan.slots) return undefined;
    const all = await Promise.all(this.#devices.map((device) => device.slotCounts()));
    return all.reduce<SlotCounts>(
      (sum, one) => ({
        hits: sum.hits + (one?.hits ?? 0),
        misses: sum.misses + (one?.misses ?? 0),
        computedByHost: sum.computedByHost + (one?.computedByHost ?? 0),
        inDram: sum.inDram + (one?.inDram ?? 0),
        read: {
          bytes: sum.read.bytes + (one?.read.bytes ?? 0),
          busyMs: Math.max(sum.read.busyMs, one?.read.busyMs ?? 0),
        },
      }),
      { hits: 0, misses: 0, computedByHost: 0, inDram: 0, read: { bytes: 0, busyMs: 0 } },
    );
  }

  /** What an expert takes on its way to each device and on the processor, as measured until now; of those that the host computes for. */
  shareRates(): ShareRates[] {
    return this.#devices.flatMap(({ shareRates }) => shareRates ?? []);
  }

  /** What passes have left to the host; undefined where layers always come whole. */
  get rowCounts(): RowCounts | undefined {
    return this.#share?.counts;
  }

  /** Starts the cycle of layers for at most `passLimit` passes: fetching begins now. */
  begin(passLimit: number): void {
    assert(!this.#session, 'one session at a time');
    const schedule = new Schedule(this.#plan.layers.length, passLimit);
    const prefetcher = new Prefetcher({
      plan: this.#plan,
      schedule,
      backend: this.#backend,
      source: this.#source,
      buffers: this.#buffers,
      trace: this.#trace,
      rows: this.#share,
    });
    this.#session = { schedule, prefetcher, nextPass: 0 };
  }

  /** That the session may still run. */
  get passesLeft(): number {
    const { schedule, nextPass } = present(this.#session, 'session');
    return schedule.passLimit - nextPass;
  }

  /** Says that no more than `passes` further passes will come, so that nothing is fetched in vain. */
  limitPasses(passes: number): void {
    const session = present(this.#session, 'session');
    session.schedule.limitPasses(session.nextPass + passes);
  }

  /** The drive's rate with the streamed layers and this executor's own host buffers; between sessions. */
  async measureReadLimit(maxMs: number): Promise<ReadLimit> {
    assert(!this.#session, 'no session runs');
    const pool = present(this.#buffers.host, 'host buffers');
    const leases = await Promise.all(Array.from({ length: pool.count }, () => pool.acquire()));
    try {
      return await measureReadLimit({
        backend: this.#backend,
        source: this.#source,
        plan: this.#plan,
        buffers: leases.map(({ buffer }) => buffer),
        maxMs,
      });
    } finally {
      for (const lease of leases) lease.release();
    }
  }

  /** Ends the session: buffers are back in their pools, nothing is read any more, and no queued work reads the tables. */
  async end(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    await session?.prefetcher.stop();
    // A pass that is cut off queues nothing more once it knows. Why it failed, it said itself.
    await Promise.allSettled([this.#running]);
    await Promise.all([...this.#devices, ...this.#rowCaches].map((part) => part.idle()));
  }

  /** A layer that was read ahead is one whose fill has begun. */
  #takeIn(layerIndex: number, { read, ready }: LoadedLayer): void {
    const { layout, tier } = present(this.#plan.layers[layerIndex], 'a layer of the plan');
    assert(tier === 'dram', 'layers that were read ahead rest in DRAM');
    const endMs = this.#trace.addRead(layout.layer.name, read);
    keepFill(
      this.#buffers,
      layerIndex,
      Promise.all([endMs, ready]).then(([ms]) => ms),
    );
  }

  /** Runs every micro-batch of the pass through all layers. One pass at a time; `checkFiles` before results are given out. */
  run(pass: Pass): Promise<PassResult[]> {
    const running = this.#run(pass);
    this.#running = running;
    return running;
  }

  /** A failure that files caused which have changed is told as what it is. */
  async #run(pass: Pass): Promise<PassResult[]> {
    try {
      return await this.#compute(pass);
    } catch (error) {
      this.checkFiles();
      throw error;
    }
  }

  /** Throws FILE_CHANGED where a file of weights has changed: results of passes since the last call are given to nobody then. */
  checkFiles(): void {
    this.#backend.checkFiles();
  }

  async #compute(pass: Pass): Promise<PassResult[]> {
    const session = present(this.#session, 'session');
    assert(session.nextPass < session.schedule.passLimit, 'the session has passes left');
    const passIndex = session.nextPass++;
    if (this.#plan.slots) session.schedule.decide(allChoose(this.#plan.slots, pass), pass.expectsWhole);
    this.#share?.begin(allLeaveRows(this.#plan.rows, pass));
    const perDevice = this.#devices.map((_, index) => pass.perDevice[index % this.batchCount] ?? []);
    for (const [index, device] of this.#devices.entries()) await device.begin(perDevice[index] ?? []);
    const ahead = layersAhead(Math.max(...perDevice.map((microBatches) => microBatches.length)));
    const queued: DeviceEvent[][] = [];
    for (const [layerIndex, layer] of this.#plan.layers.entries()) {
      await reached(queued[layerIndex - ahead] ?? []);
      const staged = await session.prefetcher.next();
      assert(isStep(staged.step, passIndex, layerIndex), 'layers arrive in the order of the schedule');
      const done: DeviceEvent[] = [];
      try {
        // Only its last piece draws tokens.
        if (layerIndex === this.#plan.layers.length - 1) await this.#readyMasks();
        for (const [index, device] of this.#devices.entries()) {
          done.push(device.queueLayer(layer, present(staged.perDevice[index], 'copy')));
        }
      } finally {
        staged.release(done);
      }
      queued.push(done);
    }
    if (this.#model.shares) return [await this.#finishTogether()];
    const results = await Promise.all(this.#devices.map((device) => device.finish()));
    this.#share?.end();
    return results;
  }

  async #readyMasks(): Promise<void> {
    const drawing = this.#devices.slice(0, this.batchCount);
    for (const ready of drawing.map((device) => device.readyMasks())) if (ready) await ready;
  }

  /** The first device draws tokens, of the logits of all; likelihoods are sums over the columns of each. */
  async #finishTogether(): Promise<PassResult> {
    const [first, ...others] = this.#devices;
    const ended = others.map((pass) => ({ pass, ended: pass.endLayers() }));
    present(first, 'a device').takeOver(ended);
    const results = await Promise.all(this.#devices.map((device) => device.finish()));
    const result = present(results[0], 'a result');
    const folded = results.flatMap((one) => one.folded ?? []);
    return folded.length > 0 ? { ...result, nll: nllOf(joinFolded(folded)) } : result;
  }
}

/** Also after a pass that failed: what was brought for its tokens need not be what others can take. */
function isStep(step: Step, passIndex: number, layerIndex: number): boolean {
  return step.passIndex === passIndex && step.layerIndex === layerIndex;
}

/** Layers pass by whole for all devices or for none; those without work take either. */
function allChoose(slots: SlotPlan, { perDevice }: Pass): boolean {
  return perDevice.every(
    (microBatches) => microBatches.length === 0 || choosesExperts(slots, microBatches.map(tokenCount)),
  );
}

/** Devices without work take part in either. */
function allLeaveRows(rows: RowsPlan | undefined, { perDevice }: Pass): boolean {
  return perDevice.every(
    (microBatches) => microBatches.length === 0 || leavesRows(rows, microBatches.map(tokenCount)),
  );
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
