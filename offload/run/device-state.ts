// Everything one device holds beside the streamed layers: states, cache, logits, tables; allocated once from the plan.

import { assert } from '../errors.js';
import { ForwardOps } from '../model/forward-ops.js';
import { headInputColumns } from '../model/forward-walk.js';
import { pageTables } from '../model/horizon.js';
import {
  blockPageBytes,
  blockPages,
  bufferBytes,
  cacheBytes,
  type KvShape,
  pagesFor,
} from '../model/kv-cache.js';
import type { LayerLayout } from '../model/layout.js';
import type { ModelSpec, Weights } from '../model/model.js';
import { type StateFields, stateFields, statesBytes } from '../model/state-cache.js';
import { weightsAt } from '../model/weights.js';
import { Workspace } from '../model/workspace.js';
import { LIKELIHOOD_WORDS, passSizes, rowsPerToken } from '../plan/pass-sizes.js';
import type { Plan } from '../plan/plan.js';
import type { Backend, Device, HostMemory } from '../port/backend.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type { Exchange } from '../port/exchange.js';
import type { Memory, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import type { WeightSource } from '../stream/weight-source.js';
import type { Trace } from '../trace.js';
import { DeviceMasks } from './device-masks.js';
import { DeviceSlots } from './device-slots.js';
import { DeviceRows } from './host-rows.js';
import { type KvTier, ResidentKv, StreamedKv } from './kv-tier.js';

export interface DeviceState {
  readonly device: Device;
  /** Its place among devices that compute together; 0 where it computes alone. */
  readonly rank: number;
  readonly ops: ForwardOps;
  /** [passTokens, H] f32 */
  readonly hidden: Tensor;
  /** [rows, K] f32: what the head's projection takes, kept while the head's pieces go by. */
  readonly headRows: Tensor;
  /** [logitRows, logitColumns] f32 */
  readonly logits: Tensor;
  /** [rows] i32 */
  readonly ids: Tensor;
  /** [rows, 3] f32: of each output's target, or of its token. */
  readonly nllState: Tensor;
  /** [rows, planned] i32 and f32: the likeliest tokens in each output's place, and their logits; undefined where none are planned. */
  readonly top: TopTokens | undefined;
  /** [passTokens] i32, and [rows] of the head's inputs: where they were not finite for the first time. */
  readonly tokenPlaces: Tensor;
  readonly headPlaces: Tensor;
  /** Where JavaScript writes tables, and where the device reads them (the same memory, in place). */
  readonly controlHost: HostMemory;
  readonly controlWords: Int32Array;
  readonly controlDevice: Memory;
  /** What says which tokens outputs may be; undefined where no pass does. */
  readonly masks: DeviceMasks | undefined;
  /** Where results are copied for JavaScript, and at `placesOffset` the places. */
  readonly results: HostMemory;
  readonly placesOffset: number;
  /** See PassSizes. */
  readonly tokensAheadOffset: number;
  readonly fixed: Weights;
  readonly kv: KvTier;
  /** Where experts that are chosen come to; undefined where layers are there whole. */
  readonly slots: DeviceSlots | undefined;
  /** Rows that the host multiplies; undefined where all of them come. */
  readonly rows: DeviceRows | undefined;
  /** By block: which of a pass's page tables it reads. */
  readonly pageTables: readonly number[];
  /** By block; undefined where it keeps none. They rest on the device. */
  readonly states: readonly (StateFields | undefined)[];
}

export interface TopTokens {
  readonly tokens: Tensor;
  readonly values: Tensor;
}

/** What a device has once, however many batches are on their way through it. */
export interface DeviceCommon {
  /** Compute works on one micro-batch after the other, so that all of them have one workspace. */
  readonly ops: ForwardOps;
  readonly fixed: Weights;
}

export interface DeviceStateOptions {
  readonly backend: Backend;
  readonly device: Device;
  readonly model: ModelSpec;
  readonly plan: Plan;
  readonly source: WeightSource;
  /** The weights that stay on the device. */
  readonly fixed: { readonly layout: LayerLayout; readonly host: HostMemory };
  readonly trace: Trace;
  /** Its end of what devices sum through, where they compute a pass together. */
  readonly exchange?: Exchange | undefined;
}

export function makeDeviceCommon(options: DeviceStateOptions): DeviceCommon {
  const { device, plan, fixed, exchange } = options;
  const workspace = new Workspace(device.allocate(plan.workspaceBytes), plan.activationType);
  return {
    ops: new ForwardOps(device.compute, workspace, uploadConstants(options), exchange),
    fixed: placeFixed(device, fixed.layout, fixed.host),
  };
}

/** What one batch has on a device. */
export function makeDeviceState(options: DeviceStateOptions, common: DeviceCommon): DeviceState {
  const { backend, device, model, plan, exchange } = options;
  const floats = (rows: number, columns: number) =>
    tensor(device.allocate(rows * columns * DTYPE_BYTES.f32), 0, 'f32', [rows, columns]);
  const pages = pagesFor(plan.contextTokens, plan.pageTokens);
  const { headRows, ...sizes } = passSizes(plan, rowsPerToken(model), pages);
  const controlHost = backend.allocateHost(sizes.controlWords * DTYPE_BYTES.i32, 'control');
  const controlDevice = device.computesInPlace ? controlHost : device.allocate(controlHost.sizeBytes);
  const places = device.allocate(sizes.placeBytes);
  return {
    device,
    rank: exchange?.rank ?? 0,
    ops: common.ops,
    hidden: floats(plan.passTokens, model.hiddenSize),
    headRows: floats(headRows, headInputColumns(model)),
    logits: floats(plan.logitRows, plan.logitColumns),
    ids: tensor(device.allocate(headRows * DTYPE_BYTES.i32), 0, 'i32', [headRows]),
    nllState: floats(headRows, LIKELIHOOD_WORDS),
    top: plan.topLogProbs > 0 ? makeTop(device, headRows, plan.topLogProbs) : undefined,
    controlHost,
    controlWords: new Int32Array(controlHost.bytes.buffer, controlHost.bytes.byteOffset, sizes.controlWords),
    controlDevice,
    masks: plan.maskWords > 0 ? new DeviceMasks({ backend, device, plan }) : undefined,
    tokenPlaces: tensor(places, 0, 'i32', [plan.passTokens]),
    headPlaces: tensor(places, plan.passTokens * DTYPE_BYTES.i32, 'i32', [headRows]),
    results: backend.allocateHost(sizes.resultBytes + sizes.placeBytes, 'control'),
    placesOffset: sizes.resultBytes,
    tokensAheadOffset: sizes.tokensAheadOffset,
    fixed: common.fixed,
    kv: makeKvTier(options),
    slots: plan.slots && new DeviceSlots(options),
    rows: plan.rows && new DeviceRows({ backend, device, rows: plan.rows }),
    pageTables: pageTables(model.caches, plan.horizons),
    states: makeStates(options),
  };
}

function makeTop(device: Device, rows: number, columns: number): TopTokens {
  const one = (dtype: 'i32' | 'f32') =>
    tensor(device.allocate(rows * columns * DTYPE_BYTES[dtype]), 0, dtype, [rows, columns]);
  return { tokens: one('i32'), values: one('f32') };
}

function makeStates({ device, model, plan }: DeviceStateOptions): (StateFields | undefined)[] {
  const slots = { slots: plan.sequences, contextTokens: plan.contextTokens };
  const sizeBytes = statesBytes(model.caches, slots);
  if (sizeBytes === 0) return [];
  return stateFields(device.allocate(sizeBytes), model.caches, slots);
}

function makeKvTier({ backend, device, model, plan, trace }: DeviceStateOptions): KvTier {
  const { caches } = model;
  const shape: KvShape = { caches, dtype: plan.kvType, pageTokens: plan.pageTokens };
  const { count, pages } = plan.kvBuffers;
  if (count === 0) {
    const memory = device.allocate(Math.max(1, cacheBytes(shape, plan)));
    return new ResidentKv(memory, shape, plan);
  }
  const hostPages = blockPages(caches, plan);
  const host = caches.map(({ kind }, block) => {
    const sizeBytes = (hostPages[block] ?? 0) * blockPageBytes(shape, block);
    return kind === 'paged' ? backend.allocateHost(sizeBytes, 'cache') : undefined;
  });
  const bufferPages = [pages, ...plan.horizons.map((horizon) => horizon.bufferPages)];
  const sizeBytes = Math.max(1, bufferBytes(shape, bufferPages, plan));
  const buffers = Array.from({ length: count }, () => device.allocate(sizeBytes));
  return new StreamedKv({ device, host, shape, buffers, bufferPages, horizons: plan.horizons, trace });
}

function placeFixed(device: Device, layout: LayerLayout, host: HostMemory): Weights {
  if (device.computesInPlace) return weightsAt(host, layout.host.placements, layout);
  const memory = device.allocate(Math.max(1, layout.device.sizeBytes));
  for (const piece of layout.device.copies) {
    device.compute.copy(memory, piece.deviceOffset, host, piece.hostOffset, piece.sizeBytes);
  }
  return weightsAt(memory, layout.device.placements, layout);
}

function uploadConstants({ backend, device, model, exchange }: DeviceStateOptions): Map<string, Tensor> {
  const { constants } = (exchange && model.shares?.[exchange.rank]) ?? model;
  return new Map(
    Object.entries(constants).map(([name, values]) => {
      assert(values.length > 0, `constant ${name} has values`);
      const host = backend.allocateHost(values.byteLength, 'control');
      host.bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      if (device.computesInPlace) return [name, tensor(host, 0, 'f32', [values.length])];
      const memory = device.allocate(values.byteLength);
      device.compute.copy(memory, 0, host, 0, values.byteLength);
      return [name, tensor(memory, 0, 'f32', [values.length])];
    }),
  );
}
