// What one device does in a pass: embeds its micro-batches, queues each layer on all of them, reads the results.

import { assert, OperatingError, present } from '../errors.js';
import type { CutLayer } from '../model/cut-layer.js';
import { blockPlace, EMBEDDING_PLACE } from '../model/forward-places.js';
import type { RowTable, Weights } from '../model/model.js';
import { placeIn, weightsAt } from '../model/weights.js';
import { leavesRows } from '../plan/host-rows.js';
import type { PlannedLayer } from '../plan/plan.js';
import { isAtRest } from '../plan/slots.js';
import type { DeviceEvent } from '../port/backend.js';
import { reached } from '../port/device-failure.js';
import type { Memory } from '../port/ops.js';
import type { ShareRates } from '../port/shares.js';
import { rows } from '../port/tensor.js';
import type { RowCache, RowLease } from '../stream/row-cache.js';
import type { RowShare, RowsApart } from '../stream/row-share.js';
import type { DeviceCopy } from '../stream/staged-layer.js';
import type { Trace } from '../trace.js';
import { checkMicroBatch } from './check-pass.js';
import type { SlotCounts } from './device-slots.js';
import { lookUpRows, queueDrawn, queueEmbedding } from './embedding.js';
import { queueHandOver, queueTokensOver } from './hand-over.js';
import { queueHeadPiece, queueTokens, takeLogits } from './head.js';
import { KeptPass } from './kept-pass.js';
import { LayerGroups } from './layer-groups.js';
import { LayerTimes } from './layer-times.js';
import { type MicroBatch, tokenCount } from './pass.js';
import type { RestingTables } from './resting-tables.js';
import { type PassResult, readResults } from './results.js';
import type { DeviceWork, Running } from './running.js';
import { uploadTables, writeTables } from './tables.js';
import { noteTokens } from './watch.js';

/** What has the host compute for the device. */
function hostsOf({ slots, rows: byHost }: DeviceWork['state']) {
  return [slots, byHost].filter((one) => one !== undefined);
}

/** With so many tokens a layer takes less than a millisecond, and what the host does for it may take as long. */
const FEW_TOKENS = 128;
interface LaidOut {
  readonly layer: PlannedLayer;
  /** Where some of its rows did not come. */
  readonly cut: CutLayer | undefined;
  readonly weights: Weights;
}

export interface DevicePassOptions extends DeviceWork {
  /** Per table of the model. */
  readonly rowCaches: readonly RowCache[];
  /** Undefined where rows always come one by one. */
  readonly tables?: RestingTables | undefined;
  readonly trace: Trace;
  /** Undefined where layers always come whole. */
  readonly share?: RowShare | undefined;
  /** Where it has some of the layers: the device with those before, which embeds or has taken over itself. */
  readonly before?: DevicePass | undefined;
}

/** Passes of one device, one after the other: `begin`, then `queueLayer` for every layer, then `finish`. */
export class DevicePass {
  readonly #work: DeviceWork;
  readonly #rowCaches: readonly RowCache[];
  readonly #tables: RestingTables | undefined;
  readonly #times: LayerTimes;
  #running: readonly Running[] = [];
  readonly #awaited = new WeakSet<DeviceEvent>();
  readonly #groups: LayerGroups;
  /** What the next one may queue again. */
  #last: KeptPass | undefined;
  /** Passes that have begun and not ended, for which the host looks out. */
  #lookouts = 0;
  /** The layer that a memory held last. */
  readonly #weights = new WeakMap<Memory, LaidOut>();
  readonly #share: RowShare | undefined;
  readonly #isAtRest: boolean;
  readonly #before: DevicePass | undefined;
  /** The tables of the pass before have left the host. */
  #uploaded: DeviceEvent | undefined;
  /** The pass's tokens are drawn. */
  #drew: DeviceEvent | undefined;
  /** Whether its tokens go to the other one of two places. */
  #isOdd = false;

  constructor(options: DevicePassOptions) {
    const { model, plan, state, rowCaches, tables, trace, share, before } = options;
    this.#share = share;
    this.#before = before;
    this.#isAtRest = isAtRest(plan);
    this.#work = { model, plan, state };
    this.#rowCaches = rowCaches;
    this.#tables = tables;
    this.#groups = new LayerGroups(state.device.compute);
    this.#times = new LayerTimes(state.device.name, trace);
  }

  /**
   * Queues the embedding of every micro-batch, or what the device before has made of them. Rejects when rows cannot be read.
   * @param drawer who draws the tokens of this and the pass before, where it is another device
   */
  async begin(microBatches: readonly MicroBatch[], drawer?: DevicePass): Promise<void> {
    const { model, plan, state } = this.#work;
    for (const microBatch of microBatches) checkMicroBatch(microBatch, model, plan);
    const followsDrawn = microBatches.some(({ drawn }) => drawn);
    this.#isOdd = followsDrawn && !this.#isOdd;
    if (followsDrawn) await this.#followDrawn(drawer);
    this.#times.beginPass();
    this.#groups.beginPass();
    this.#running = [];
    await this.#embed(state.kv.begin(microBatches));
    if (this.#before) this.#takeFrom(this.#before);
    for (const one of hostsOf(state)) one.beginPass();
    this.#lookouts++;
  }

  /** Queues a layer on every micro-batch; the event is reached when its bytes are no longer read. */
  queueLayer(layer: PlannedLayer, copy: DeviceCopy): DeviceEvent {
    const { compute } = this.#work.state.device;
    const waits = this.#waitFor(copy.ready);
    const group = waits ? undefined : this.#groupOf(copy);
    if (!group) this.#groups.close();
    // What rests on the device is there at once, so a layer starts as the one before ends. For others the host may have
    // waited.
    const before = waits || !copy.rests ? undefined : this.#times.lastEnd;
    const start = group?.start ?? before ?? compute.record();
    const apart = this.#together(layer, copy);
    const weights = this.#weightsOf(layer, copy, apart);
    const queue = () => {
      if (layer.kind === 'block') this.#queueBlock(layer.index, weights);
      else queueHeadPiece(this.#work, this.#running, layer, weights);
      this.#work.state.ops.flush();
    };
    if (group) this.#groups.add(group, { of: weights, queue });
    else queue();
    const end = group?.end ?? compute.record();
    this.#times.add(layer.layout.layer.name, start, end);
    this.#times.account();
    if (apart) this.#share?.note(apart, { started: start, ended: end });
    return end;
  }

  /**
   * Says which tokens the outputs may be, before the last layer is queued: what was queued runs meanwhile. Undefined where nothing
   * says it.
   */
  readyMasks(): Promise<void> | undefined {
    const { masks } = this.#work.state;
    if (!masks || !this.#running.some(({ control }) => control.sampling?.allowed)) return undefined;
    this.#groups.close();
    return masks.take(this.#running);
  }

  /** Rows that did not come, if they can stay where they are; for other passes than they were left for they follow now. */
  #together({ layout }: PlannedLayer, { apart, memory }: DeviceCopy): RowsApart | undefined {
    if (!apart || this.#running.length === 0) return undefined;
    const tokens = this.#running.map((running) => running.tokens);
    if (leavesRows(this.#work.plan.rows, tokens)) return apart;
    const { compute, name } = this.#work.state.device;
    const started = compute.record();
    for (const { hostOffset, deviceOffset, sizeBytes } of apart.cut.staying) {
      compute.copy(memory, deviceOffset, apart.home, hostOffset, sizeBytes);
    }
    this.#times.addCopies(
      { owner: name, name: layout.layer.name, bytes: apart.cut.stayingBytes },
      started,
      compute.record(),
    );
    return undefined;
  }

  /** That all layers are queued: reached when the device has computed them. */
  endLayers(): DeviceEvent {
    this.#groups.close();
    return this.#work.state.device.compute.record();
  }

  /** Its hidden states are there when the device before has computed its layers, all of which are queued. */
  #takeFrom(before: DevicePass): void {
    const { state: to, model } = this.#work;
    const { state: from } = before.#work;
    const handed = { from, made: before.endLayers(), to, running: this.#running, times: this.#times };
    queueHandOver(handed, model.hiddenSize);
  }

  /** Where another device goes on: waits until this one has computed its layers. Rejects like `finish`. */
  async finishLayers(): Promise<void> {
    const end = this.endLayers();
    this.#times.endPass();
    await reached(end);
    this.#times.account();
  }

  /** Where others have computed this pass as well: takes in their logits, and queues what follows from all of them. */
  takeOver(others: readonly { readonly pass: DevicePass; readonly ended: DeviceEvent }[]): void {
    const { compute } = this.#work.state.device;
    this.#groups.close();
    for (const { pass, ended } of others) {
      compute.wait(ended);
      takeLogits(this.#work, this.#running, pass.#work);
    }
    queueTokens(this.#work, this.#running);
    this.#work.state.ops.flush();
    this.#drew = compute.record();
  }

  /** The pass before may still be on its way: its tables are not to be written over, and its tokens come from where they are drawn. */
  async #followDrawn(drawer: DevicePass | undefined): Promise<void> {
    assert(this.#tables?.areThere, 'every token has its row on the device');
    if (this.#uploaded && Number.isNaN(this.#uploaded.timeMs)) await this.#uploaded.reached();
    if (drawer) queueTokensOver(drawer.#work.state, present(drawer.#drew, 'drawn tokens'), this.#work.state);
  }

  /** Waits for the device. Rejects with an OperatingError when it failed. */
  async finish(): Promise<PassResult> {
    this.#groups.close();
    this.#times.endPass();
    try {
      const result = await readResults(this.#work, this.#running, this.#isOdd);
      // The next pass is not to wait for it.
      setImmediate(() => this.#times.account());
      return result;
    } catch (error) {
      throw this.#causeOf(error);
    } finally {
      this.#restHost();
    }
  }

  /** Undefined where there are no slots. */
  async slotCounts(): Promise<SlotCounts | undefined> {
    return this.#work.state.slots?.counts();
  }

  /** Undefined where the host computes nothing beside the device. */
  get shareRates(): ShareRates | undefined {
    return this.#work.state.slots?.shareRates;
  }

  /** Resolves when nothing queued runs any more, also after a pass that failed half way. */
  async idle(): Promise<void> {
    const { device, kv } = this.#work.state;
    this.#groups.drop();
    await device.compute
      .record()
      .reached()
      .catch(() => undefined); // a failed device was reported by its pass
    this.#times.account();
    await kv.idle();
    while (this.#lookouts > 0) this.#restHost();
  }

  #restHost(): void {
    if (this.#lookouts === 0) return;
    this.#lookouts--;
    for (const one of hostsOf(this.#work.state)) one.endPass();
  }

  /** What the host failed in, which its device waited for. */
  #causeOf(error: unknown): unknown {
    const reason = hostsOf(this.#work.state).find(({ hostFailure }) => hostFailure !== '')?.hostFailure;
    if (reason === undefined) return error;
    return new OperatingError(
      'DEVICE_FAILED',
      `the processor failed in what it computes beside ${this.#work.state.device.name}: ${reason}`,
      { cause: error },
    );
  }

  /** The micro-batch of a pass that has no other, and few tokens. */
  get #alone(): Running | undefined {
    const [running, more] = this.#running;
    return !more && running && running.tokens <= FEW_TOKENS ? running : undefined;
  }

  /** What the pass before has queued is kept where it is the same, and nothing else decides about operations. */
  #recall(): void {
    const { model, state } = this.#work;
    const running = this.#alone;
    const before = this.#last;
    this.#last = undefined;
    if (!running || running.microBatch.watched || !state.kv.isResident) return;
    if (model.lengthDependentAfterTokens !== undefined) return;
    const kept = before?.fits(running) ? before : undefined;
    if (kept) this.#groups.keep(kept);
    this.#last = kept ?? new KeptPass(running);
    this.#last.begin();
  }

  /**
   * Layers at rest are handed over several at a time where a few tokens take less than what lies between two batches. The first
   * groups are small, so that the device begins at once.
   */
  #groupOf({ rests }: DeviceCopy) {
    if (!rests || !this.#alone) return undefined;
    return this.#groups.open(() => this.#times.lastEnd ?? this.#work.state.device.compute.record());
  }

  /** Whether the stream has to wait: once it has, everything queued later is behind the event as well. */
  #waitFor(events: readonly DeviceEvent[]): boolean {
    let waits = false;
    for (const event of events) {
      if (this.#awaited.has(event)) continue;
      this.#work.state.device.compute.wait(event);
      this.#awaited.add(event);
      waits = true;
    }
    return waits;
  }

  /** Made once for a layer that rests where it is computed. */
  #weightsOf(
    layer: PlannedLayer,
    { memory, placements, home }: DeviceCopy,
    apart: RowsApart | undefined,
  ): Weights {
    const known = this.#weights.get(memory);
    if (known?.layer === layer && known.cut === apart?.cut) return known.weights;
    const { slots, rows: byHost } = this.#work.state;
    const inSlots = home && present(slots, 'slots').of(layer, home);
    const split = apart && present(byHost, 'rows').split(layer, apart, placeIn(memory, placements));
    const weights = weightsAt(memory, placements, { layer: layer.layout.layer, inSlots, split });
    this.#weights.set(memory, { layer, cut: apart?.cut, weights });
    return weights;
  }

  /** Looks up the rows of each micro-batch, writes its tables, and queues the embedding, or lets it wait for the first layer. */
  async #embed(microBatches: readonly MicroBatch[]): Promise<void> {
    const { plan, state } = this.#work;
    const { compute } = state.device;
    // They may come while a row is looked up.
    const tables = this.#tables?.areThere ? this.#tables : undefined;
    const resting = (table: RowTable) => tables?.find(state.device, table);
    let [firstToken, firstOutput, firstWord] = [0, 0, 0];
    for (const microBatch of microBatches) {
      const tokens = tokenCount(microBatch);
      assert(tokens > 0 && tokens <= plan.microBatchTokens, 'a micro-batch has the planned size');
      assert(firstToken + tokens <= plan.passTokens, 'a pass has the planned size');
      const found = this.#before ? [] : lookUpRows(this.#work.model, this.#rowCaches, microBatch, resting);
      const leases = await found;
      // Where nothing was waited for, one micro-batch follows the other.
      const before = found instanceof Promise ? undefined : this.#times.lastEnd;
      const start = before ?? compute.record();
      const indices = leases.map((lease) => lease.indices);
      const control = writeTables(this.#work, microBatch, indices, { firstWord, firstOutput });
      const running = { microBatch, control, firstToken, tokens, firstOutput };
      this.#running = [...this.#running, running];
      if (microBatches.length === 1) this.#recall();
      const embedded = this.#embedOne(running, leases, start, tables ?? this.#rowCaches);
      this.#uploaded = embedded;
      for (const lease of leases) lease.release(embedded);
      if (!this.#before) this.#times.add('embedding', start, embedded);
      firstToken += tokens;
      firstOutput += microBatch.outputs.length;
      firstWord += control.words;
    }
  }

  /** @param from where the rows lie */
  #embedOne(running: Running, leases: readonly RowLease[], start: DeviceEvent, from: object): DeviceEvent {
    const { state } = this.#work;
    const queue = () => {
      uploadTables(state, running.control);
      if (this.#before) return;
      if (running.microBatch.drawn) queueDrawn(this.#work, running);
      queueEmbedding(this.#work, running, leases);
      noteTokens(state, running, EMBEDDING_PLACE, true);
    };
    // Where the first layer is still to come, nobody waits for it.
    if (this.#groups.areKept && this.#isAtRest) {
      const group = this.#groups.begin(start);
      group.waiting.push({ of: from, queue });
      return group.end;
    }
    queue();
    return state.device.compute.record();
  }

  #queueBlock(index: number, weights: Weights): void {
    const { model, state } = this.#work;
    const { ops, kv, hidden } = state;
    const fields = state.states[index];
    for (const [turn, running] of this.#running.entries()) {
      const { control, firstToken, tokens } = running;
      const states = fields && { fields, tables: present(control.states, 'slots of states') };
      const tables = present(control.attention[state.pageTables[index] ?? 0], 'page table');
      ops.enter(tables, kv.enter(index, turn), control.lengths, states);
      model.forward.block(ops, weights, rows(hidden, firstToken, tokens), index);
      noteTokens(state, running, blockPlace(index), false);
      kv.leave(index, turn);
    }
  }
}
