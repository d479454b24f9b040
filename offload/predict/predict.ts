// Predicts what a pass takes from the plan and a machine's rates, and says what bounds it. Reads no weights.

import { present } from '../errors.js';
import { type ForwardTypes, ForwardWalk } from '../model/forward-walk.js';
import { firstRead, type Horizon, pageTables } from '../model/horizon.js';
import { blockPageBytes, pagesFor } from '../model/kv-cache.js';
import { cutShards } from '../model/layout.js';
import type { ModelSpec } from '../model/model.js';
import { bestShare, cutOf, leavesRows, type RowRates, rowBytes } from '../plan/host-rows.js';
import { type ComputeRates, opMs, productOf, type SliceShape, storedBytes } from '../plan/op-cost.js';
import type { Plan, PlannedLayer } from '../plan/plan.js';
import type { HardwareProfile } from '../plan/profile.js';
import { broughtBytes, choosesExperts, readBytes, shareGain } from '../plan/slots.js';
import { stepsAhead } from '../plan/steps-ahead.js';
import { elementCount } from '../port/dtype.js';
import type { Op } from '../port/ops.js';
import { type LayerTimes, simulatePasses } from './pipeline.js';
import type { Bound, PredictedPass } from './predicted.js';
import { predictStages } from './stages.js';

/** A micro-batch as far as its cost depends on it. */
export interface MicroBatchShape {
  readonly slices: readonly SliceShape[];
  /** Tokens whose logits are wanted. */
  readonly outputs: number;
}

/** Undefined where layers rest on a drive whose rate is not known. */
export function predictPass(
  model: ModelSpec,
  plan: Plan,
  profile: HardwareProfile,
  microBatches: readonly MicroBatchShape[],
): PredictedPass | undefined {
  if (plan.pipeline) {
    return predictStages(plan, profile, (lane, alone) => predictPass(model, lane, alone, microBatches));
  }
  const { drive, compute } = profile;
  const streams = plan.layers.some(({ tier }) => tier === 'nvme');
  if (streams && !drive) return undefined;
  const cost = new Cost(model, plan, { ...compute, inHalves: profile.devices.kind === 'gpu' });
  const shapes = distinctShapes(microBatches);
  const sumOver = (ms: (shape: MicroBatchShape, times: number) => number) =>
    shapes.reduce((sum, { shape, times }) => sum + ms(shape, times), 0);
  const kvShape = { caches: model.caches, dtype: plan.kvType, pageTokens: plan.pageTokens };
  const horizons = pageTables(model.caches, plan.horizons).map((table) => plan.horizons[table - 1]?.horizon);
  const inPlace = profile.devices.kind === 'cpu';
  const chooses = choosesExperts(plan.slots, microBatches.map(tokensOf));
  const bringMs = (layer: PlannedLayer, [one]: readonly MicroBatchShape[]) => {
    const bytes = plan.slots && one ? broughtBytes(layer, plan.slots, tokensOf(one)) : 0;
    if (inPlace) {
      bytesRead += bytes;
      const fromDriveMs = drive ? (bytes / drive.bytesPerSecond) * 1e3 : 0;
      fetched.driveMs += fromDriveMs;
      return fromDriveMs;
    }
    const linkMs = (bytes / (profile.devices.linkBytesPerSecond ?? Number.POSITIVE_INFINITY)) * 1e3;
    if (!plan.slots || !one) return 0;
    const fromDrive = readBytes(layer, plan.slots, tokensOf(one));
    const fromDriveMs = drive ? (fromDrive / drive.bytesPerSecond) * 1e3 : 0;
    bytesRead += fromDrive;
    const overLinkMs = linkMs / shareGain(plan.slots, tokensOf(one));
    fetched.driveMs += fromDriveMs;
    fetched.linkMs += overLinkMs;
    // What is there goes on to the device while the rest is read.
    return Math.max(fromDriveMs, overLinkMs);
  };
  const leaves = leavesRows(plan.rows, microBatches.map(tokensOf));
  const rates = leaves ? rowRates(plan, profile) : undefined;
  const cutFor = (layer: PlannedLayer) => (rates && layer.cuttable ? cutOf(layer, rates.share) : undefined);
  let [broughtMs, bytesRead] = [0, 0];
  const fetched = { driveMs: 0, linkMs: 0 };
  const layers = plan.layers.map((layer): LayerTimes => {
    // Devices fetch what is chosen themselves, and little is computed meanwhile.
    const fetchedMs = chooses ? bringMs(layer, microBatches) : 0;
    broughtMs += fetchedMs;
    const cut = cutFor(layer);
    const hostMs = rates && cut ? (cut.stayingBytes / rates.hostBytesPerSecond) * 1e3 : 0;
    const computeMs = fetchedMs + hostMs + sumOver((shape, times) => cost.layer(layer, shape, times));
    const bytes = layer.tier === 'nvme' && !(chooses && layer.experts) ? layer.layout.host.sizeBytes : 0;
    bytesRead += bytes;
    const driveMs = drive ? (bytes / drive.bytesPerSecond) * 1e3 : 0;
    const pageSize = layer.kind === 'block' ? blockPageBytes(kvShape, layer.index) : 0;
    const horizon = layer.kind === 'block' ? horizons[layer.index] : undefined;
    const kvMs = keyValueMs({ pageBytes: pageSize, horizon }, plan, profile, microBatches);
    const travels = cut?.travellingBytes ?? layer.layout.device.sizeBytes;
    const passesByMs = chooses && layer.experts ? 0 : linkMs({ ...layer, bytes: travels }, plan, profile);
    return { driveMs, linkMs: passesByMs + kvMs, computeMs };
  });
  const startMs = sumOver((shape, times) => cost.start(shape, times));
  const rowsMs = drive ? drive.latencyMs * model.tables.length : 0;
  const betweenMs = compute.passMs + rowsMs + startMs;
  const { hostSteps, deviceSteps } = stepsAhead(plan);
  const windows = {
    ahead: Math.max(hostSteps, 2) + Math.max(deviceSteps, 2) + 1,
    host: plan.hostBuffers.count,
    device: inPlace ? 0 : plan.deviceBuffers.count,
    betweenMs,
  };
  const { totalMs, stallMs } = simulatePasses(layers, windows);
  const sum = (of: (times: LayerTimes) => number) => layers.reduce((total, times) => total + of(times), 0);
  const busy = {
    drive: sum((times) => times.driveMs) + fetched.driveMs,
    link: sum((times) => times.linkMs) + fetched.linkMs,
    compute: sum((times) => times.computeMs) - broughtMs + betweenMs,
  };
  return {
    totalMs,
    computeMs: busy.compute,
    driveMs: busy.drive,
    linkMs: busy.link,
    stallMs,
    bound: boundOf(totalMs, busy, cost.weightMs > cost.productMs / 2),
    tokens: microBatches.reduce((all, shape) => all + tokensOf(shape), 0),
    driveBytes: bytesRead,
    weightBytes: cost.weightBytes,
    flops: cost.flops,
  };
}

/** Adds up operations of the forward, layer by layer. */
class Cost {
  readonly #compute: ComputeRates;
  readonly #walk: ForwardWalk;
  #slices: readonly SliceShape[] = [];
  #times = 1;
  #ms = 0;
  /** What products take, and what reading their weights from memory alone would. */
  productMs = 0;
  weightMs = 0;
  weightBytes = 0;
  flops = 0;

  constructor(model: ModelSpec, types: ForwardTypes, compute: ComputeRates) {
    this.#compute = compute;
    this.#walk = new ForwardWalk(model, types, (op) => this.#hear(op));
  }

  /** What a layer takes for `times` micro-batches of that shape. */
  layer(layer: PlannedLayer, shape: MicroBatchShape, times: number): number {
    const { slices, outputs } = shape;
    const tokens = tokensOf(shape);
    return this.#of(slices, times, () => {
      if (layer.kind === 'block') this.#walk.block(layer.index, tokens);
      else if (outputs > 0) {
        const projection = layer.layout.layer.matrices.find(({ key }) => key === 'projection');
        if (layer.index === 0) this.#walk.headInput(outputs);
        this.#walk.headPiece(present(projection, 'projection'), outputs);
      }
    });
  }

  /** Before the first layer. */
  start(shape: MicroBatchShape, times: number): number {
    return this.#of(shape.slices, times, () => this.#walk.embed(tokensOf(shape)));
  }

  #of(slices: readonly SliceShape[], times: number, walk: () => void): number {
    this.#slices = slices;
    this.#times = times;
    this.#ms = 0;
    walk();
    return this.#ms;
  }

  #hear(op: Op): void {
    const ms = opMs(op, this.#slices, this.#compute) * this.#times;
    this.#ms += ms;
    if (op.op !== 'linear' && op.op !== 'expert_linear' && op.op !== 'head_linear') return;
    const { weight, weightCount, rowsEach } = productOf(op);
    const elements = weightCount * elementCount(weight.shape) * this.#times;
    const bytes = (elements / elementCount(weight.shape)) * storedBytes(weight);
    this.productMs += ms;
    this.weightMs += (bytes / this.#compute.memoryBytesPerSecond) * 1e3;
    this.weightBytes += bytes;
    this.flops += 2 * elements * rowsEach;
  }
}

function tokensOf({ slices }: MicroBatchShape): number {
  return slices.reduce((sum, { tokens }) => sum + tokens, 0);
}

/** A prompt's passes hold many micro-batches of few shapes. */
function distinctShapes(
  microBatches: readonly MicroBatchShape[],
): { shape: MicroBatchShape; times: number }[] {
  const found = new Map<string, { shape: MicroBatchShape; times: number }>();
  for (const shape of microBatches) {
    const key = JSON.stringify(shape);
    const known = found.get(key);
    if (known) known.times++;
    else found.set(key, { shape, times: 1 });
  }
  return [...found.values()];
}

/**
 * The share of rows that travel, and what host and link reach beside each other. Where the host's rate is not known, it is taken to
 * end with the link.
 */
function rowRates(
  plan: Plan,
  { devices }: HardwareProfile,
): (RowRates & { readonly share: number }) | undefined {
  const { linkBytesPerSecond, hostBytesPerSecond } = devices;
  const planned = present(plan.rows, 'rows');
  if (linkBytesPerSecond === null) return undefined;
  const { travelling, staying } = rowBytes(plan, planned.share);
  const host = hostBytesPerSecond ?? (linkBytesPerSecond * staying) / Math.max(1, travelling);
  const rates = { linkBytesPerSecond, hostBytesPerSecond: host };
  if (planned.isFixed || hostBytesPerSecond === undefined) return { ...rates, share: planned.share };
  return { ...rates, share: bestShare((share) => rowBytes(plan, share), rates).share };
}

/** What rests in shards is gathered; otherwise each device pulls its shard over its own link, then the others' from its peers; or all of it over its own link. */
function linkMs(
  { bytes, tier, inShards = false }: Pick<PlannedLayer, 'tier' | 'inShards'> & { readonly bytes: number },
  { transfer, deviceCount }: Plan,
  { devices }: HardwareProfile,
): number {
  const { linkBytesPerSecond, peerBytesPerSecond } = devices;
  if (inShards)
    return ((bytes * (1 - 1 / deviceCount)) / (peerBytesPerSecond ?? Number.POSITIVE_INFINITY)) * 1e3;
  if (devices.kind === 'cpu' || tier === 'gpu' || linkBytesPerSecond === null) return 0;
  if (transfer.kind !== 'shards' || peerBytesPerSecond === null) return (bytes / linkBytesPerSecond) * 1e3;
  const [first] = cutShards(bytes, deviceCount);
  const shard = first ? first.endBytes - first.startBytes : 0;
  return (shard / linkBytesPerSecond + (bytes - shard) / peerBytesPerSecond) * 1e3;
}

/** Keys and values that a block's attention reads, where they come from DRAM; what is stored goes the other way. */
function keyValueMs(
  block: { readonly pageBytes: number; readonly horizon: Horizon | undefined },
  { kvBuffers, pageTokens }: Plan,
  { devices }: HardwareProfile,
  microBatches: readonly MicroBatchShape[],
): number {
  if (kvBuffers.count === 0 || devices.linkBytesPerSecond === null) return 0;
  let pages = 0;
  for (const { slices } of microBatches) {
    for (const { startPosition } of slices) {
      const first = block.horizon ? firstRead(block.horizon, startPosition) : 0;
      pages += pagesFor(startPosition, pageTokens) - Math.floor(first / pageTokens);
    }
  }
  return ((pages * block.pageBytes) / devices.linkBytesPerSecond) * 1e3;
}

/** The busiest of the three, if it is busy most of the time. */
function boundOf(
  totalMs: number,
  busy: { readonly drive: number; readonly link: number; readonly compute: number },
  waitsForWeights: boolean,
): Bound {
  const most = Math.max(busy.drive, busy.link, busy.compute);
  if (most < 0.8 * totalMs) return 'turns';
  if (most === busy.compute) return waitsForWeights ? 'memory' : 'arithmetic';
  return most === busy.drive ? 'drive' : 'link';
}
