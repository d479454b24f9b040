// Runs passes: takes each layer as it arrives, queues every micro-batch on it, gives the buffer back, reads the results.

import type { Backend, DeviceEvent, HostMemory } from './backend.js';
import { type DeviceState, makeDeviceState, weightsAt } from './device-state.js';
import { DTYPE_BYTES } from './dtype.js';
import { assert, OperatingError, present } from './errors.js';
import { layoutLayer } from './layout.js';
import type { ModelSpec, Weights } from './model.js';
import { type ControlTables, type MicroBatch, type Pass, tokenCount, writeControl } from './pass.js';
import type { Plan, PlannedLayer } from './plan.js';
import { BufferPool } from './pool.js';
import { type Buffers, type DeviceCopy, Prefetcher } from './prefetch.js';
import { measureReadLimit, type ReadLimit } from './read-limit.js';
import { RowCache, type RowLease } from './row-cache.js';
import { Schedule } from './schedule.js';
import { columns, dimension, rows } from './tensor.js';
import type { Trace } from './trace.js';
import { WeightSource } from './weight-source.js';

/** What a pass yields for one device, in the order of its micro-batches' outputs. */
export interface PassResult {
  /** Output `tokens`: the most likely next token per output. */
  readonly tokens: Int32Array;
  /** Output `nll`: negative log-likelihood of the target per output. */
  readonly nll: Float64Array;
  /** Output `logits`: [R, V] row by row. */
  readonly logits: Float32Array;
}

/** A micro-batch on its way through the layers. */
interface Running {
  readonly microBatch: MicroBatch;
  readonly control: ControlTables;
  readonly firstToken: number;
  readonly tokens: number;
  readonly firstOutput: number;
}

interface LayerTiming {
  readonly name: string;
  readonly start: DeviceEvent;
  readonly end: DeviceEvent;
}

export class Executor {
  readonly #model: ModelSpec;
  readonly #plan: Plan;
  readonly #backend: Backend;
  readonly #source: WeightSource;
  readonly #trace: Trace;
  readonly #buffers: Buffers;
  readonly #rowCaches: readonly RowCache[];
  readonly #states: readonly DeviceState[];
  #session: { readonly schedule: Schedule; readonly prefetcher: Prefetcher; nextPass: number } | undefined;

  private constructor(
    model: ModelSpec,
    plan: Plan,
    backend: Backend,
    source: WeightSource,
    trace: Trace,
    fixedHost: HostMemory,
    contextTokens: number,
  ) {
    this.#model = model;
    this.#plan = plan;
    this.#backend = backend;
    this.#source = source;
    this.#trace = trace;
    this.#buffers = allocateBuffers(backend, plan);
    this.#rowCaches = model.tables.map((table, index) => {
      const memory = backend.allocateHost(present(plan.rowCacheBytes[index], 'row cache size'), 'control');
      const onRead = (span: { startMs: number; endMs: number; bytes: number }) =>
        trace.add({ lane: 'rows', owner: 'drive', name: table.key, ...span });
      return new RowCache(table, source, memory, onRead);
    });
    const fixed = { layout: layoutLayer(model.fixed), host: fixedHost };
    this.#states = backend.devices.map((device) =>
      makeDeviceState(backend, device, model, plan, contextTokens, fixed),
    );
  }

  /**
   * Opens the files, reads the few weights that stay on the device and allocates everything the plan states.
   * Layers are not read here: the first pass is the load. Rejects with an OperatingError.
   * @param contextTokens longest sequence, as the plan was made for
   */
  static async create(
    model: ModelSpec,
    plan: Plan,
    backend: Backend,
    paths: readonly string[],
    trace: Trace,
    contextTokens: number,
  ): Promise<Executor> {
    const source = new WeightSource(backend, paths);
    const { host } = layoutLayer(model.fixed);
    const fixedHost = backend.allocateHost(Math.max(1, host.sizeBytes), 'control');
    if (host.runs.length > 0) await source.readLayer(host, fixedHost);
    return new Executor(model, plan, backend, source, trace, fixedHost, contextTokens);
  }

  get plan(): Plan {
    return this.#plan;
  }

  /** Buffers that are out: none between sessions. */
  get leasedBuffers(): number {
    const { host, device } = this.#buffers;
    return device.reduce((sum, pool) => sum + pool.leased, host?.leased ?? 0);
  }

  /** Starts the stream of layers for at most `passLimit` passes: fetching begins now. */
  begin(passLimit: number): void {
    assert(!this.#session, 'one session at a time');
    const schedule = new Schedule(this.#plan.layers.length, passLimit);
    const prefetcher = new Prefetcher(
      this.#plan,
      schedule,
      this.#backend,
      this.#source,
      this.#buffers,
      this.#trace,
    );
    this.#session = { schedule, prefetcher, nextPass: 0 };
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
      const buffers = leases.map(({ buffer }) => buffer);
      return await measureReadLimit(this.#backend, this.#source, this.#plan, buffers, maxMs);
    } finally {
      for (const lease of leases) lease.release();
    }
  }

  /** Ends the session: buffers are back in their pools, and no queued work reads the tables any more. */
  async end(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    await session?.prefetcher.stop();
    // After a pass that failed half way, kernels of its first layers may still run. A failed device was reported there.
    await Promise.allSettled(this.#states.map(({ device }) => device.compute.record().reached()));
  }

  /** Runs every micro-batch of the pass through all layers. One pass at a time. */
  async run(pass: Pass): Promise<PassResult[]> {
    const session = present(this.#session, 'session');
    assert(session.nextPass < session.schedule.passLimit, 'the session has passes left');
    session.nextPass++;
    const perDevice: Running[][] = [];
    for (const [index, state] of this.#states.entries()) {
      perDevice.push(await this.#embed(state, pass.perDevice[index] ?? []));
    }
    const timings: LayerTiming[][] = this.#states.map(() => []);
    const begun = this.#states.map((state) => state.device.compute.record());
    for (let layerIndex = 0; layerIndex < this.#plan.layers.length; layerIndex++) {
      const staged = await session.prefetcher.next();
      assert(staged.step.layerIndex === layerIndex, 'layers arrive in the order of the schedule');
      const layer = present(this.#plan.layers[layerIndex], 'layer');
      const done: DeviceEvent[] = [];
      try {
        this.#states.forEach((state, index) => {
          const timing = this.#queueLayer(
            state,
            layer,
            present(staged.perDevice[index], 'copy'),
            perDevice[index] ?? [],
          );
          present(timings[index], 'timings').push(timing);
          done.push(timing.end);
        });
      } finally {
        staged.release(done);
      }
    }
    return Promise.all(
      this.#states.map(async (state, index) => {
        const result = await this.#readResults(state, perDevice[index] ?? []);
        this.#account(state, present(begun[index], 'event'), timings[index] ?? []);
        return result;
      }),
    );
  }

  /** Rows of a micro-batch, per table. Rejects when no look-up is under way any more, and holds none then. */
  async #lookup(microBatch: MicroBatch): Promise<RowLease[]> {
    const lookups = await Promise.allSettled(
      this.#model.tables.map((table, index) =>
        present(this.#rowCaches[index], 'row cache').lookup(
          tableRows(table.rowsFrom, table.rowOffset, microBatch),
        ),
      ),
    );
    const failure = lookups.find((lookup) => lookup.status === 'rejected');
    const leases = lookups.flatMap((lookup) => (lookup.status === 'fulfilled' ? [lookup.value] : []));
    if (!failure) return leases;
    for (const lease of leases) lease.release();
    throw failure.reason;
  }

  /** Looks up the rows of each micro-batch, writes its tables, and queues the embedding. */
  async #embed(state: DeviceState, microBatches: readonly MicroBatch[]): Promise<Running[]> {
    const running: Running[] = [];
    let [firstToken, firstOutput, firstWord] = [0, 0, 0];
    for (const microBatch of microBatches) {
      const tokens = tokenCount(microBatch);
      assert(tokens > 0 && tokens <= this.#plan.microBatchTokens, 'a micro-batch has the planned size');
      assert(firstToken + tokens <= this.#plan.passTokens, 'a pass has the planned size');
      const leases = await this.#lookup(microBatch);
      const control = writeControl(
        microBatch,
        leases.map((lease) => lease.indices),
        state.controlWords,
        firstWord,
        state.controlDevice,
      );
      if (state.controlDevice !== state.controlHost) {
        const [offset, sizeBytes] = [firstWord * DTYPE_BYTES.i32, control.words * DTYPE_BYTES.i32];
        state.device.compute.copy(state.controlDevice, offset, state.controlHost, offset, sizeBytes);
      }
      state.kernels.enter(undefined, undefined);
      const find = (key: string) => {
        const index = this.#model.tables.findIndex((table) => table.key === key);
        return {
          table: present(leases[index], `table ${key}`).table,
          rows: present(control.rows[index], 'rows'),
        };
      };
      this.#model.forward.embed(state.kernels, state.fixed, find, rows(state.hidden, firstToken, tokens));
      const embedded = state.device.compute.record();
      for (const lease of leases) lease.release(embedded);
      running.push({ microBatch, control, firstToken, tokens, firstOutput });
      firstToken += tokens;
      firstOutput += microBatch.outputs.length;
      firstWord += control.words;
    }
    return running;
  }

  #queueLayer(
    state: DeviceState,
    layer: PlannedLayer,
    copy: DeviceCopy,
    microBatches: readonly Running[],
  ): LayerTiming {
    const { compute } = state.device;
    const { name } = layer.layout.layer;
    for (const event of copy.ready) compute.wait(event);
    const start = compute.record();
    const weights = weightsAt(copy.memory, copy.placements, name);
    if (layer.kind === 'block') this.#queueBlock(state, layer.index, weights, microBatches);
    else this.#queueHeadPiece(state, layer, weights, microBatches);
    return { name, start, end: compute.record() };
  }

  #queueBlock(state: DeviceState, index: number, weights: Weights, microBatches: readonly Running[]): void {
    for (const { control, firstToken, tokens } of microBatches) {
      state.kernels.enter(control.attention, state.cache(index));
      this.#model.forward.block(state.kernels, weights, rows(state.hidden, firstToken, tokens), index);
    }
  }

  #queueHeadPiece(
    state: DeviceState,
    layer: PlannedLayer,
    weights: Weights,
    microBatches: readonly Running[],
  ): void {
    const { kernels } = state;
    if (layer.index === 0) for (const running of microBatches) this.#queueHeadInput(state, running);
    const outputs = microBatches.reduce((sum, { microBatch }) => sum + microBatch.outputs.length, 0);
    if (outputs === 0) return;
    const last = layer.firstColumn + layer.columns === this.#model.vocabSize;
    if (!this.#plan.nll) {
      const logits = columns(rows(state.logits, 0, outputs), layer.firstColumn, layer.columns);
      this.#queueLogits(state, weights, rows(state.headRows, 0, outputs), logits);
      if (last) kernels.argmax(rows(state.logits, 0, outputs), rows(state.ids, 0, outputs));
      return;
    }
    for (const { microBatch, control, firstOutput } of microBatches) {
      const count = microBatch.outputs.length;
      if (count === 0) continue;
      kernels.enter(undefined, undefined);
      const logits = columns(rows(state.logits, 0, count), 0, layer.columns);
      this.#queueLogits(state, weights, rows(state.headRows, firstOutput, count), logits);
      kernels.nllFold(rows(state.nllState, firstOutput, count), logits, control.targets, layer.firstColumn);
    }
  }

  #queueHeadInput(
    state: DeviceState,
    { microBatch, control, firstToken, tokens, firstOutput }: Running,
  ): void {
    const count = microBatch.outputs.length;
    if (count === 0) return;
    const { kernels } = state;
    kernels.enter(undefined, undefined);
    const wanted = kernels.empty([count, this.#model.hiddenSize]);
    kernels.gather(wanted, rows(state.hidden, firstToken, tokens), control.outputs);
    this.#model.forward.headInput(kernels, state.fixed, wanted, rows(state.headRows, firstOutput, count));
  }

  #queueLogits(
    state: DeviceState,
    weights: Weights,
    x: ReturnType<typeof rows>,
    out: ReturnType<typeof rows>,
  ): void {
    const { scale, softCap } = this.#model.logits;
    state.kernels.linear(x, weights('projection'), { bias: weights.optional('bias') }, out);
    if (scale !== 1 || softCap !== 0) state.kernels.scaleCap(out, scale, softCap);
  }

  async #readResults(state: DeviceState, microBatches: readonly Running[]): Promise<PassResult> {
    const outputs = microBatches.reduce((sum, { microBatch }) => sum + microBatch.outputs.length, 0);
    const { compute } = state.device;
    const from = this.#plan.nll ? state.nllState : this.#plan.readLogits ? state.logits : state.ids;
    const perRow = from.shape.length === 1 ? 1 : dimension(from, 1);
    if (outputs > 0) compute.copy(state.results, 0, from.memory, 0, outputs * perRow * 4);
    try {
      await compute.record().reached();
    } catch (error) {
      if (error instanceof OperatingError) throw error;
      throw new OperatingError('DEVICE_FAILED', `${state.device.name} failed: ${String(error)}`, {
        cause: error,
      });
    }
    const { buffer, byteOffset } = state.results.bytes;
    const count = outputs * perRow;
    if (this.#plan.nll) {
      const folded = new Float32Array(buffer, byteOffset, count);
      return { tokens: EMPTY_IDS, logits: EMPTY_FLOATS, nll: nllOf(folded) };
    }
    if (this.#plan.readLogits) {
      return {
        tokens: EMPTY_IDS,
        nll: EMPTY_DOUBLES,
        logits: new Float32Array(buffer, byteOffset, count).slice(),
      };
    }
    return {
      tokens: new Int32Array(buffer, byteOffset, count).slice(),
      logits: EMPTY_FLOATS,
      nll: EMPTY_DOUBLES,
    };
  }

  #account(state: DeviceState, begun: DeviceEvent, timings: readonly LayerTiming[]): void {
    let free = begun.timeMs;
    for (const { name, start, end } of timings) {
      this.#trace.addComputeStall(Math.max(0, start.timeMs - free));
      free = end.timeMs;
      const span = { name, startMs: start.timeMs, endMs: end.timeMs, bytes: 0 };
      this.#trace.add({ lane: 'compute', owner: state.device.name, ...span });
    }
  }
}

const EMPTY_IDS = new Int32Array(0);
const EMPTY_FLOATS = new Float32Array(0);
const EMPTY_DOUBLES = new Float64Array(0);

/** −log softmax of the target: maximum + log Σ exp(logit − maximum) − logit. */
function nllOf(folded: Float32Array): Float64Array {
  return Float64Array.from({ length: folded.length / 3 }, (_, row) => {
    const [maximum = 0, total = 0, target = 0] = folded.subarray(row * 3, row * 3 + 3);
    return maximum + Math.log(total) - target;
  });
}

function tableRows(from: 'token' | 'position', offset: number, microBatch: MicroBatch): Int32Array {
  const result = new Int32Array(tokenCount(microBatch));
  let next = 0;
  for (const { tokens, startPosition } of microBatch.slices) {
    if (from === 'token') result.set(tokens, next);
    else for (let i = 0; i < tokens.length; i++) result[next + i] = startPosition + i + offset;
    next += tokens.length;
  }
  return result;
}

function allocateBuffers(backend: Backend, plan: Plan): Buffers {
  const { hostBuffers, deviceBuffers } = plan;
  const host = Array.from({ length: hostBuffers.count }, () =>
    backend.allocateHost(hostBuffers.sizeBytes, 'stream'),
  );
  const residents = new Map<number, HostMemory>();
  plan.layers.forEach((layer, index) => {
    if (layer.tier === 'dram')
      residents.set(index, backend.allocateHost(layer.layout.host.sizeBytes, 'resident'));
  });
  return {
    host: host.length > 0 ? new BufferPool('host', host) : null,
    device: backend.devices
      .map((device) => {
        if (device.computesInPlace) return null;
        const memories = Array.from({ length: deviceBuffers.count }, () =>
          device.allocate(deviceBuffers.sizeBytes),
        );
        return new BufferPool(device.name, memories);
      })
      .filter((pool) => pool !== null),
    residents,
    filled: new Map(),
  };
}
