// Runs passes: takes each layer as it arrives, has every device queue its work on it, and gives the buffer back.

import { assert, present } from '../errors.js';
import { layoutLayer } from '../model/layout.js';
import type { ModelSpec } from '../model/model.js';
import type { WeightFile } from '../model/stripes.js';
import { leavesRows } from '../plan/host-rows.js';
import type { Plan, RowsPlan, SlotPlan } from '../plan/plan.js';
import { choosesExperts } from '../plan/slots.js';
import { batchCountOf, lanePlans, withCachesOf } from '../plan/stages.js';
import type { Backend, HostMemory, ReadSpan } from '../port/backend.js';
import type { ShareRates } from '../port/shares.js';
import type { LoadedLayer } from '../stream/load-ahead.js';
import { measureReadLimit, type ReadLimit } from '../stream/read-limit.js';
import { RowCache } from '../stream/row-cache.js';
import { type RowCounts, RowShare } from '../stream/row-share.js';
import { WeightSource } from '../stream/weight-source.js';
import type { Trace } from '../trace.js';
import { DevicePass } from './device-pass.js';
import type { SlotCounts } from './device-slots.js';
import { makeDeviceCommon, makeDeviceState } from './device-state.js';
import { Lane, layersAhead } from './lane.js';
import { joinFolded, nllOf } from './log-probs.js';
import { type Pass, tokenCount } from './pass.js';
import { PATIENCE_MS, Patience } from './patience.js';
import { RestingTables } from './resting-tables.js';
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
  /** How long devices that sum may get nowhere; default two minutes on GPUs, and any time elsewhere. */
  readonly patienceMs?: number | undefined;
  /** Is told what a user may want to know while it runs. */
  readonly tell?: ((what: string) => void) | undefined;
}

export class Executor {
  readonly #model: ModelSpec;
  readonly #plan: Plan;
  readonly #backend: Backend;
  readonly #source: WeightSource;
  /** One with all layers, or one for each stage. */
  readonly #lanes: readonly Lane[];
  readonly #rowCaches: readonly RowCache[];
  /** Undefined where rows of tokens are always looked up one by one. */
  readonly #tables: RestingTables | undefined;
  /** One of each device; in a pipeline, by batch, one of each stage. */
  readonly #crews: readonly (readonly DevicePass[])[];
  readonly #share: RowShare | undefined;
  /** Where devices wait for each other. */
  readonly #patience: Patience | undefined;
  #session: { passLimit: number; nextPass: number } | undefined;
  readonly #running = new Set<Promise<unknown>>();
  /** The pass that came last is queued. */
  #queued: Promise<void> = Promise.resolve();

  private constructor(options: ExecutorOptions, source: WeightSource, fixedHost: HostMemory) {
    const { model, plan, backend, trace, loaded = new Map(), tell = () => undefined } = options;
    this.#model = model;
    this.#plan = plan;
    this.#backend = backend;
    this.#source = source;
    const share = plan.rows && new RowShare(plan, tell);
    this.#share = share;
    this.#lanes = lanePlans(plan).map((lane) => new Lane({ lane, backend, source, trace, loaded, share }));
    const rowCaches = model.tables.map((table, index) => {
      const memory = backend.allocateHost(present(plan.rowCacheBytes[index], 'row cache size'), 'control');
      const onRead = (span: ReadSpan) =>
        trace.add({ lane: 'rows', owner: 'drive', name: table.key, ...span });
      return new RowCache(table, source, memory, onRead);
    });
    this.#rowCaches = rowCaches;
    this.#tables =
      plan.tablesRest && new RestingTables({ backend, model, source, trace, tier: plan.tablesRest });
    const tables = this.#tables;
    const fixed = { layout: layoutLayer(model.fixed), host: fixedHost };
    const { sumRoundBytes } = plan;
    const exchanges = sumRoundBytes === undefined ? [] : backend.openExchange(backend.devices, sumRoundBytes);
    const { patienceMs = backend.kind === 'cuda' ? PATIENCE_MS : undefined } = options;
    if (exchanges.length > 0 && patienceMs !== undefined) {
      this.#patience = new Patience(patienceMs, () => backend.closeExchange(exchanges));
    }
    const makers = this.#lanes.flatMap((lane) =>
      lane.devices.map((device, index) => {
        const own = { model: withCachesOf(model, lane.plan.layers), plan: lane.plan };
        const options = { backend, device, ...own, source, fixed, trace, exchange: exchanges[index] };
        const common = makeDeviceCommon(options);
        return (before: DevicePass | undefined) => {
          const state = makeDeviceState(options, common);
          return new DevicePass({ ...own, state, rowCaches, tables, trace, share, before });
        };
      }),
    );
    this.#crews = Array.from({ length: plan.pipeline?.batches ?? 1 }, () => {
      const crew: DevicePass[] = [];
      for (const make of makers) crew.push(make(plan.pipeline && crew.at(-1)));
      return crew;
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

  /** That are computed at once. */
  get batchCount(): number {
    return batchCountOf(this.#model, this.#plan);
  }

  /** Buffers that are out: none between sessions. */
  get leasedBuffers(): number {
    return this.#lanes.reduce((sum, { leasedBuffers }) => sum + leasedBuffers, 0);
  }

  get #devices(): readonly DevicePass[] {
    return present(this.#crews[0], 'a crew');
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
    for (const lane of this.#lanes) lane.begin(passLimit);
    this.#session = { passLimit, nextPass: 0 };
  }

  /** That the session may still run. */
  get passesLeft(): number {
    const { passLimit, nextPass } = present(this.#session, 'session');
    return passLimit - nextPass;
  }

  /** Says that no more than `passes` further passes will come, so that nothing is fetched in vain. */
  limitPasses(passes: number): void {
    const session = present(this.#session, 'session');
    session.passLimit = Math.min(session.passLimit, session.nextPass + passes);
    for (const { schedule } of this.#lanes) schedule.limitPasses(session.passLimit);
  }

  /** The drive's rate with the streamed layers and this executor's own host buffers; between sessions. */
  async measureReadLimit(maxMs: number): Promise<ReadLimit> {
    assert(!this.#session, 'no session runs');
    const leases = (await Promise.all(this.#lanes.map((lane) => lane.leaseHostBuffers()))).flat();
    assert(leases.length > 0, 'there are host buffers');
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
    this.#session = undefined;
    await Promise.all(this.#lanes.map((lane) => lane.stop()));
    // A pass that is cut off queues nothing more once it knows. Why it failed, it said itself.
    await Promise.allSettled(this.#running);
    await this.#tables?.stop();
    await Promise.all([...this.#crews.flat(), ...this.#rowCaches].map((part) => part.idle()));
    for (const lane of this.#lanes) lane.freePassed();
  }

  /**
   * Runs every micro-batch of the pass through all layers; `checkFiles` before results are given out. One pass at a time, but in a
   * pipeline one of each batch.
   */
  run(pass: Pass): Promise<PassResult[]> {
    const running = this.#run(pass);
    this.#running.add(running);
    const forget = () => this.#running.delete(running);
    running.then(forget, forget);
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
    assert(session.nextPass < session.passLimit, 'the session has passes left');
    const passIndex = session.nextPass++;
    if (this.#plan.pipeline) return this.#throughStages(pass, passIndex);
    const onAll = () => this.#onAllDevices(pass, passIndex);
    return this.#patience ? this.#patience.during(onAll) : onAll();
  }

  /**
   * A pass may begin before the one before it has ended, if that is of single tokens that go on and are drawn freely: its own
   * micro-batches then are `drawn`.
   */
  get runsAhead(): boolean {
    return this.#tables?.areThere === true && !(this.#plan.nll || this.#plan.readLogits);
  }

  async #onAllDevices(pass: Pass, passIndex: number): Promise<PassResult[]> {
    const before = this.#queued;
    let results: Promise<PassResult[]> | undefined;
    this.#queued = present(this.#lanes[0], 'a lane').inTurn(async () => {
      const followsDrawn = pass.perDevice.flat().some(({ drawn }) => drawn);
      // What it follows is no token where that was never queued.
      if (followsDrawn) await before;
      await this.#queueOnAll(pass, passIndex, followsDrawn);
      results = this.#finishAll();
      results.catch(() => undefined); // it may fail before anybody waits for it
    });
    this.#queued.catch(() => undefined);
    await this.#queued;
    const all = await present(results, 'results');
    this.#tables?.goOn();
    return all;
  }

  async #queueOnAll(pass: Pass, passIndex: number, followsDrawn: boolean): Promise<void> {
    const patience = this.#patience;
    const lane = present(this.#lanes[0], 'a lane');
    if (this.#plan.slots) lane.schedule.decide(allChoose(this.#plan.slots, pass), pass.expectsWhole);
    this.#share?.begin(allLeaveRows(this.#plan.rows, pass));
    const devices = this.#devices;
    const perDevice = devices.map((_, index) => pass.perDevice[index % this.batchCount] ?? []);
    for (const [index, device] of devices.entries()) {
      const drawer = this.#model.shares && index > 0 ? devices[0] : undefined;
      await device.begin(perDevice[index] ?? [], drawer);
    }
    const ahead = layersAhead(Math.max(...perDevice.map((microBatches) => microBatches.length)));
    if (!followsDrawn) lane.forgetQueued();
    // Only its last piece draws tokens.
    await lane.queueLayers({ passIndex, devices, ahead, beforeLast: () => this.#readyMasks(), patience });
  }

  async #finishAll(): Promise<PassResult[]> {
    if (this.#model.shares) return [await this.#finishTogether()];
    const results = await Promise.all(this.#devices.map((device) => device.finish()));
    this.#share?.end();
    return results;
  }

  /** A batch's micro-batches go through one stage after the other, those of other batches before and behind them. */
  async #throughStages({ batch = 0, perDevice }: Pass, passIndex: number): Promise<PassResult[]> {
    const crew = present(this.#crews[batch], 'a batch of the pipeline');
    const microBatches = present(perDevice[0], 'micro-batches');
    const ahead = layersAhead(microBatches.length);
    const last = present(crew.at(-1), 'the last stage');
    const ended: Promise<void>[] = [];
    try {
      for (const [stage, lane] of this.#lanes.entries()) {
        const device = present(crew[stage], 'a stage');
        await lane.inTurn(async () => {
          await device.begin(microBatches);
          const beforeLast = device === last ? async () => device.readyMasks() : undefined;
          await lane.queueLayers({ passIndex, devices: [device], ahead, beforeLast });
        });
        if (device === last) continue;
        const end = device.finishLayers();
        end.catch(() => undefined); // it may fail before anybody waits for it
        ended.push(end);
      }
    } catch (error) {
      // A device that has failed is the reason, if one has.
      for (const { reason } of (await Promise.allSettled(ended)).filter(isRejected)) throw reason;
      throw error;
    }
    const [result] = await Promise.all([last.finish(), ...ended]);
    return [result];
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

function isRejected(one: PromiseSettledResult<unknown>): one is PromiseRejectedResult {
  return one.status === 'rejected';
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
