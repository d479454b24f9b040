// What one device does in a pass: embeds its micro-batches, queues each layer on all of them, reads the results.

import { assert, OperatingError, present } from '../errors.js';
import { blockPlace, EMBEDDING_PLACE, headInputPlace, type PassPlaces } from '../model/forward-places.js';
import type { ModelSpec, Weights } from '../model/model.js';
import type { Plan, PlannedLayer } from '../plan/plan.js';
import type { DeviceEvent } from '../port/backend.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type { Memory, Tensor } from '../port/ops.js';
import { columns, dimension, rows } from '../port/tensor.js';
import type { DeviceCopy } from '../stream/prefetch.js';
import type { RowCache, RowLease } from '../stream/row-cache.js';
import type { Trace } from '../trace.js';
import { checkMicroBatch } from './check-pass.js';
import { type DeviceState, weightsAt } from './device-state.js';
import { copyLogProbs, nllOf, queueLogProbs, readLogProbs } from './log-probs.js';
import { type ControlTables, type MicroBatch, tableRows, tokenCount, writeControl } from './pass.js';

/** What a pass yields for one device, in the order of its micro-batches' outputs. */
export interface PassResult {
  /** Output `tokens`: the likeliest, or the drawn, next token per output. */
  readonly tokens: Int32Array;
  /** Output `nll`: negative log-likelihood of the target per output. */
  readonly nll: Float64Array;
  /**
   * Output `tokens`: natural logarithm of the probability that the model's own logits, whatever the sampling, give the
   * token, per output; NaN where there is no token or its micro-batch does not ask. Empty where none of the pass does.
   */
  readonly logProbs: Float64Array;
  /** Output `logits`: [R, V] row by row. */
  readonly logits: Float32Array;
  /** Where its hidden state was not finite for the first time; undefined for a pass that is not watched. */
  readonly places?: PassPlaces;
}

/** A micro-batch on its way through the layers. */
interface Running {
  readonly microBatch: MicroBatch;
  readonly control: ControlTables;
  readonly firstToken: number;
  readonly tokens: number;
  readonly firstOutput: number;
}

/** Of the embedding, or of a layer. */
interface Timing {
  readonly name: string;
  readonly start: DeviceEvent;
  readonly end: DeviceEvent;
}

/** Passes of one device, one after the other: `begin`, then `queueLayer` for every layer, then `finish`. */
export class DevicePass {
  readonly #model: ModelSpec;
  readonly #plan: Plan;
  readonly #state: DeviceState;
  readonly #rowCaches: readonly RowCache[];
  readonly #trace: Trace;
  #running: readonly Running[] = [];
  #timings: Timing[] = [];
  /** How many of them are in the trace. */
  #accounted = 0;
  readonly #awaited = new WeakSet<DeviceEvent>();
  /** The layer that a memory held last. */
  readonly #weights = new WeakMap<Memory, { readonly layer: PlannedLayer; readonly weights: Weights }>();

  constructor(
    model: ModelSpec,
    plan: Plan,
    state: DeviceState,
    rowCaches: readonly RowCache[],
    trace: Trace,
  ) {
    this.#model = model;
    this.#plan = plan;
    this.#state = state;
    this.#rowCaches = rowCaches;
    this.#trace = trace;
  }

  /** Queues the embedding of every micro-batch. Rejects when rows cannot be read. */
  async begin(microBatches: readonly MicroBatch[]): Promise<void> {
    for (const microBatch of microBatches) checkMicroBatch(microBatch, this.#model, this.#plan);
    [this.#timings, this.#accounted] = [[], 0];
    this.#running = await this.#embed(this.#state.kv.begin(microBatches));
  }

  /** Queues a layer on every micro-batch; the event is reached when its bytes are no longer read. */
  queueLayer(layer: PlannedLayer, copy: DeviceCopy): DeviceEvent {
    const { compute } = this.#state.device;
    const { name } = layer.layout.layer;
    const waits = this.#waitFor(copy.ready);
    // What rests on the device is there at once, so a layer starts as the one before ends. Of others the host may have
    // waited for the bytes.
    const before = waits || layer.tier !== 'gpu' ? undefined : this.#timings.at(-1);
    const start = before?.end ?? compute.record();
    const weights = this.#weightsOf(layer, copy);
    if (layer.kind === 'block') this.#queueBlock(layer.index, weights);
    else this.#queueHeadPiece(layer, weights);
    const end = compute.record();
    this.#timings.push({ name, start, end });
    this.#account();
    return end;
  }

  /** Whether the stream has to wait: once it has, everything queued later is behind the event as well. */
  #waitFor(events: readonly DeviceEvent[]): boolean {
    let waits = false;
    for (const event of events) {
      if (this.#awaited.has(event)) continue;
      this.#state.device.compute.wait(event);
      this.#awaited.add(event);
      waits = true;
    }
    return waits;
  }

  /** Made once for a layer that rests where it is computed. */
  #weightsOf(layer: PlannedLayer, { memory, placements }: DeviceCopy): Weights {
    const known = this.#weights.get(memory);
    if (known?.layer === layer) return known.weights;
    const weights = weightsAt(memory, placements, layer.layout.layer.name);
    this.#weights.set(memory, { layer, weights });
    return weights;
  }

  /** Waits for the device. Rejects with an OperatingError when it failed. */
  async finish(): Promise<PassResult> {
    const result = await this.#readResults();
    this.#account();
    return result;
  }

  /** Resolves when nothing queued runs any more, also after a pass that failed half way. */
  async idle(): Promise<void> {
    await this.#state.device.compute
      .record()
      .reached()
      .catch(() => undefined); // a failed device was reported by its pass
    await this.#state.kv.idle();
  }

  /** Rows of a micro-batch, per table. Rejects when no look-up is under way any more, and holds none then. */
  #lookup(microBatch: MicroBatch): RowLease[] | Promise<RowLease[]> {
    const lookups = this.#model.tables.map((table, index) =>
      present(this.#rowCaches[index], 'row cache').lookup(
        tableRows(table.rowsFrom, table.rowOffset, microBatch),
      ),
    );
    return lookups.every(isThere) ? lookups : allOrNone(lookups);
  }

  /** Looks up the rows of each micro-batch, writes its tables, and queues the embedding. */
  async #embed(microBatches: readonly MicroBatch[]): Promise<Running[]> {
    const { compute } = this.#state.device;
    const running: Running[] = [];
    let [firstToken, firstOutput, firstWord] = [0, 0, 0];
    for (const microBatch of microBatches) {
      const tokens = tokenCount(microBatch);
      assert(tokens > 0 && tokens <= this.#plan.microBatchTokens, 'a micro-batch has the planned size');
      assert(firstToken + tokens <= this.#plan.passTokens, 'a pass has the planned size');
      const found = this.#lookup(microBatch);
      const leases = await found;
      // Where nothing was waited for, one micro-batch follows the other.
      const before = found instanceof Promise ? undefined : this.#timings.at(-1);
      const start = before?.end ?? compute.record();
      const control = writeControl(
        microBatch,
        leases.map((lease) => lease.indices),
        this.#state.controlWords,
        firstWord,
        this.#state.controlDevice,
        this.#plan.pageTokens,
      );
      if (this.#state.controlDevice !== this.#state.controlHost) {
        const [offset, sizeBytes] = [firstWord * DTYPE_BYTES.i32, control.words * DTYPE_BYTES.i32];
        compute.copy(this.#state.controlDevice, offset, this.#state.controlHost, offset, sizeBytes);
      }
      this.#state.kernels.enter(undefined, undefined);
      const find = (key: string) => {
        const index = this.#model.tables.findIndex((table) => table.key === key);
        return {
          table: present(leases[index], `table ${key}`).table,
          rows: present(control.rows[index], 'rows'),
        };
      };
      this.#model.forward.embed(
        this.#state.kernels,
        this.#state.fixed,
        find,
        rows(this.#state.hidden, firstToken, tokens),
      );
      this.#watch(microBatch, { firstToken, tokens }, EMBEDDING_PLACE);
      const embedded = compute.record();
      for (const lease of leases) lease.release(embedded);
      this.#timings.push({ name: 'embedding', start, end: embedded });
      running.push({ microBatch, control, firstToken, tokens, firstOutput });
      firstToken += tokens;
      firstOutput += microBatch.outputs.length;
      firstWord += control.words;
    }
    return running;
  }

  #queueBlock(index: number, weights: Weights): void {
    for (const [turn, running] of this.#running.entries()) {
      const { control, firstToken, tokens } = running;
      this.#state.kernels.enter(control.attention, this.#state.kv.enter(index, turn), control.lengths);
      this.#model.forward.block(
        this.#state.kernels,
        weights,
        rows(this.#state.hidden, firstToken, tokens),
        index,
      );
      this.#watch(running.microBatch, running, blockPlace(index));
      this.#state.kv.leave(index, turn);
    }
  }

  #watch(
    { watched }: MicroBatch,
    { firstToken, tokens }: Pick<Running, 'firstToken' | 'tokens'>,
    place: number,
  ): void {
    if (!watched) return;
    const { kernels, tokenPlaces, hidden } = this.#state;
    const [noted, x] = [tokenPlaces, hidden].map((tensor) => rows(tensor, firstToken, tokens));
    const isFirst = place === EMBEDDING_PLACE;
    kernels.noteNotFinite(present(noted, 'places'), present(x, 'hidden states'), place, isFirst);
  }

  #queueHeadPiece(layer: PlannedLayer, weights: Weights): void {
    const { kernels } = this.#state;
    if (layer.index === 0) for (const running of this.#running) this.#queueHeadInput(running);
    const outputs = this.#outputCount();
    if (outputs === 0) return;
    const last = layer.firstColumn + layer.columns === this.#model.vocabSize;
    if (!this.#plan.nll) {
      const logits = columns(rows(this.#state.logits, 0, outputs), layer.firstColumn, layer.columns);
      this.#queueLogits(weights, rows(this.#state.headRows, 0, outputs), logits);
      if (last) for (const running of this.#running) this.#queueTokens(running);
      return;
    }
    for (const { microBatch, control, firstOutput } of this.#running) {
      const count = microBatch.outputs.length;
      if (count === 0) continue;
      kernels.enter(undefined, undefined);
      const logits = columns(rows(this.#state.logits, 0, count), 0, layer.columns);
      this.#queueLogits(weights, rows(this.#state.headRows, firstOutput, count), logits);
      kernels.nllFold(
        rows(this.#state.nllState, firstOutput, count),
        logits,
        control.targets,
        layer.firstColumn,
      );
    }
  }

  #queueTokens({ microBatch, control, firstOutput }: Running): void {
    const count = microBatch.outputs.length;
    if (count === 0) return;
    const logits = rows(this.#state.logits, firstOutput, count);
    const ids = rows(this.#state.ids, firstOutput, count);
    if (control.sampling) this.#state.kernels.sample(logits, ids, control.sampling);
    else this.#state.kernels.argmax(logits, ids);
    if (microBatch.logProbs) queueLogProbs(this.#state, logits, ids, firstOutput);
  }

  #queueHeadInput({ microBatch, control, firstToken, tokens, firstOutput }: Running): void {
    const count = microBatch.outputs.length;
    if (count === 0) return;
    const { kernels } = this.#state;
    kernels.enter(undefined, undefined);
    const wanted = kernels.floats([count, this.#model.hiddenSize]);
    kernels.gather(wanted, rows(this.#state.hidden, firstToken, tokens), control.outputs);
    const input = rows(this.#state.headRows, firstOutput, count);
    this.#model.forward.headInput(kernels, this.#state.fixed, wanted, input);
    if (!microBatch.watched) return;
    const noted = rows(this.#state.headPlaces, firstOutput, count);
    kernels.noteNotFinite(noted, input, headInputPlace(this.#model), true);
  }

  #queueLogits(weights: Weights, x: Tensor, out: Tensor): void {
    const { scale, softCap } = this.#model.logits;
    this.#state.kernels.linear(x, weights('projection'), { bias: weights.optional('bias') }, out);
    if (scale !== 1 || softCap !== 0) this.#state.kernels.scaleCap(out, scale, softCap);
  }

  async #readResults(): Promise<PassResult> {
    const outputs = this.#outputCount();
    const { compute } = this.#state.device;
    const from = this.#plan.nll
      ? this.#state.nllState
      : this.#plan.readLogits
        ? this.#state.logits
        : this.#state.ids;
    const perRow = from.shape.length === 1 ? 1 : dimension(from, 1);
    if (outputs > 0) compute.copy(this.#state.results, 0, from.memory, 0, outputs * perRow * 4);
    // Behind the tokens.
    copyLogProbs(this.#state, this.#running, outputs * DTYPE_BYTES.i32);
    this.#copyPlaces();
    try {
      await compute.record().reached(true);
    } catch (error) {
      if (error instanceof OperatingError) throw error;
      // Devices wait for each other's layers, so the first cause names its own device; this one may be sound.
      const reason = error instanceof Error ? error.message : String(error);
      throw new OperatingError('DEVICE_FAILED', `a device failed: ${reason}`, { cause: error });
    }
    const { buffer, byteOffset } = this.#state.results.bytes;
    const count = outputs * perRow;
    const places = this.#readPlaces();
    const nothing = {
      tokens: EMPTY_IDS,
      logits: EMPTY_FLOATS,
      nll: EMPTY_DOUBLES,
      logProbs: EMPTY_DOUBLES,
      ...(places && { places }),
    };
    if (this.#plan.nll) return { ...nothing, nll: nllOf(new Float32Array(buffer, byteOffset, count)) };
    if (this.#plan.readLogits) {
      return { ...nothing, logits: new Float32Array(buffer, byteOffset, count).slice() };
    }
    const tokens = new Int32Array(buffer, byteOffset, count).slice();
    const logProbs = readLogProbs(this.#state, this.#running, outputs * DTYPE_BYTES.i32);
    return { ...nothing, tokens, logProbs };
  }

  get #isWatched(): boolean {
    return this.#running.some(({ microBatch }) => microBatch.watched);
  }

  #copyPlaces(): void {
    if (!this.#isWatched) return;
    const { device, results, placesOffset, tokenPlaces } = this.#state;
    device.compute.copy(results, placesOffset, tokenPlaces.memory, 0, results.sizeBytes - placesOffset);
  }

  #readPlaces(): PassPlaces | undefined {
    if (!this.#isWatched) return undefined;
    const { results, placesOffset, tokenPlaces, headPlaces } = this.#state;
    const { buffer, byteOffset } = results.bytes;
    const read = (noted: Tensor, count: number, runOf: (running: Running) => readonly [number, number]) => {
      const start = byteOffset + placesOffset + noted.offsetBytes;
      const from = new Int32Array(buffer, start, dimension(noted, 0));
      const places = new Int32Array(count).fill(-1);
      for (const running of this.#running) {
        const [first, length] = runOf(running);
        if (running.microBatch.watched) places.set(from.subarray(first, first + length), first);
      }
      return places;
    };
    const tokens = this.#running.reduce((sum, running) => sum + running.tokens, 0);
    return {
      tokens: read(tokenPlaces, tokens, (running) => [running.firstToken, running.tokens]),
      outputs: read(headPlaces, this.#outputCount(), ({ firstOutput, microBatch }) => [
        firstOutput,
        microBatch.outputs.length,
      ]),
    };
  }

  #outputCount(): number {
    return this.#running.reduce((sum, { microBatch }) => sum + microBatch.outputs.length, 0);
  }

  /** Enters the layers that are over into the trace: most of them while the device has others to compute. */
  #account(): void {
    for (; this.#accounted < this.#timings.length; this.#accounted++) {
      const { name, start, end } = present(this.#timings[this.#accounted], 'timing');
      if (Number.isNaN(end.timeMs)) return;
      const before = this.#timings[this.#accounted - 1];
      if (before) this.#trace.addComputeStall(Math.max(0, start.timeMs - before.end.timeMs));
      const span = { name, startMs: start.timeMs, endMs: end.timeMs, bytes: 0 };
      this.#trace.add({ lane: 'compute', owner: this.#state.device.name, ...span });
    }
  }
}

const EMPTY_IDS = new Int32Array(0);
const EMPTY_FLOATS = new Float32Array(0);
const EMPTY_DOUBLES = new Float64Array(0);

function isThere(lookup: RowLease | Promise<RowLease>): lookup is RowLease {
  return !(lookup instanceof Promise);
}

async function allOrNone(lookups: readonly (RowLease | Promise<RowLease>)[]): Promise<RowLease[]> {
  const settled = await Promise.allSettled(lookups);
  const leases = settled.flatMap((lookup) => (lookup.status === 'fulfilled' ? [lookup.value] : []));
  const failure = settled.find((lookup) => lookup.status === 'rejected');
  if (!failure) return leases;
  for (const lease of leases) lease.release();
  throw failure.reason;
}
