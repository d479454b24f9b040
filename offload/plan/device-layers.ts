// What a device with memory of its own holds of the layers: those that rest there, and buffers for those that pass by.

import { present } from '../errors.js';
import { counted, formatBytes } from '../units.js';
import type { BufferPlan, PlanOptions, PlanTerm } from './plan.js';
import type { Sizing } from './sizes.js';

/** At most as much as fits, that many layers exactly, or at most that many bytes. */
export type DeviceResident = 'auto' | { readonly layers: number } | { readonly bytes: number };

/** Where the layers are, as far as it is one device's memory. */
export interface DevicePlace {
  /** By layer: whether it rests on every device. */
  readonly resident: readonly boolean[];
  readonly buffers: BufferPlan;
  readonly terms: readonly PlanTerm[];
}

const DEVICE_WINDOW_LAYERS = 2;

/** Beside `terms`; undefined where that does not fit into the device's budget. */
export function placeOnDevice(sizing: Sizing, terms: readonly PlanTerm[]): DevicePlace | undefined {
  const { options, deviceLayerBytes } = sizing;
  const layerCount = deviceLayerBytes.length;
  if (options.computesInPlace) {
    const { resident } = spreadOf(deviceLayerBytes, 0);
    return { resident, buffers: { count: 0, sizeBytes: 0 }, terms: [] };
  }
  const free = terms.reduce(
    (left, { tier, bytes }) => left - (tier === 'gpu' ? bytes : 0),
    options.deviceBudgetBytes ?? Number.POSITIVE_INFINITY,
  );
  const wanted = wantedResidents(options, layerCount);
  if (wanted.layers === layerCount) {
    // Everything at rest needs no buffers.
    const { resident, bytes } = spreadOf(deviceLayerBytes, layerCount);
    if (bytes <= Math.min(free, wanted.bytes)) {
      return {
        resident,
        buffers: { count: 0, sizeBytes: 0 },
        terms: [residentTerm(layerCount, layerCount, bytes)],
      };
    }
  }
  const buffers = streamBuffers(sizing, wanted.layers > 0).find(
    ({ count, sizeBytes }) => count * sizeBytes <= free,
  );
  if (!buffers) return undefined;
  const forLayers = free - buffers.count * buffers.sizeBytes;
  const most = Math.min(wanted.layers, layerCount - 1);
  const count = mostAtRest(deviceLayerBytes, most, Math.min(forLayers, wanted.bytes));
  const { resident, bytes } = spreadOf(deviceLayerBytes, count);
  if (wanted.exactly && count < wanted.layers) return undefined;
  const stated = [bufferTerm(buffers)];
  if (count > 0) stated.push(residentTerm(count, layerCount, bytes));
  return { resident, buffers, terms: stated };
}

/** What the device would have to hold beside its working memory, for a refusal. */
export function smallestDeviceTerms(sizing: Sizing): PlanTerm[] {
  const { options, deviceLayerBytes } = sizing;
  if (options.computesInPlace) return [];
  const { layers, exactly } = wantedResidents(options, deviceLayerBytes.length);
  const stated =
    layers === deviceLayerBytes.length && exactly
      ? []
      : [bufferTerm(present(streamBuffers(sizing, true).at(-1), 'buffers'))];
  if (!exactly || layers === 0) return stated;
  const { bytes } = spreadOf(deviceLayerBytes, layers);
  return [...stated, residentTerm(layers, deviceLayerBytes.length, bytes)];
}

/** Which layers of all rest: spread evenly between streamed ones, so that drive and link never idle for long. */
export function spreadTiers(layerCount: number, residentLayers: number): boolean[] {
  return Array.from(
    { length: layerCount },
    (_, index) =>
      Math.floor(((index + 1) * residentLayers) / layerCount) >
      Math.floor((index * residentLayers) / layerCount),
  );
}

/** Some of the layers, spread evenly, and what they take. */
export interface Spread {
  readonly resident: readonly boolean[];
  readonly bytes: number;
}

/** By number of layers at rest; many plans are weighed for the same layers. */
const known = new WeakMap<readonly number[], Map<number, Spread>>();

export function spreadOf(layerBytes: readonly number[], residentLayers: number): Spread {
  const spreads = known.get(layerBytes) ?? new Map<number, Spread>();
  known.set(layerBytes, spreads);
  const before = spreads.get(residentLayers);
  if (before) return before;
  const resident = spreadTiers(layerBytes.length, residentLayers);
  const bytes = layerBytes.reduce((total, one, index) => total + (resident[index] ? one : 0), 0);
  const spread = { resident, bytes };
  spreads.set(residentLayers, spread);
  return spread;
}

/** How many layers, up to `most`, fit into `freeBytes` when they are spread. */
export function mostAtRest(layerBytes: readonly number[], most: number, freeBytes: number): number {
  let count = 0;
  while (count < most && spreadOf(layerBytes, count + 1).bytes <= freeBytes) count++;
  return count;
}

/** Without a word from the caller, layers rest on a device where the planner decides and knows how much it holds. */
function wantedResidents(
  { offload, deviceBudgetBytes, deviceResident }: PlanOptions,
  layerCount: number,
): { layers: number; bytes: number; exactly: boolean } {
  const decides = offload === 'auto' && deviceBudgetBytes !== undefined;
  const wanted = deviceResident ?? (decides ? 'auto' : { layers: 0 });
  const unlimited = { layers: layerCount, bytes: Number.POSITIVE_INFINITY, exactly: false };
  if (wanted === 'auto') return unlimited;
  if ('bytes' in wanted) return { ...unlimited, bytes: wanted.bytes };
  return { ...unlimited, layers: Math.min(wanted.layers, layerCount), exactly: true };
}

/**
 * Best first. One more than two lets shards be gathered while a layer computes and the link fills the next, and has the
 * first layer of a pass copied before the head's short pieces at the end of the last; worth less than a layer at rest.
 */
function streamBuffers({ options, transfer, deviceBufferBytes }: Sizing, mayRest: boolean): BufferPlan[] {
  const { deviceWindowLayers } = options;
  const usual =
    transfer.kind === 'shards' || !mayRest
      ? [DEVICE_WINDOW_LAYERS + 1, DEVICE_WINDOW_LAYERS]
      : [DEVICE_WINDOW_LAYERS];
  const counts = deviceWindowLayers === undefined ? usual : [deviceWindowLayers];
  return counts.map((count) => ({ count, sizeBytes: deviceBufferBytes }));
}

function bufferTerm({ count, sizeBytes }: BufferPlan): PlanTerm {
  return {
    tier: 'gpu',
    name: 'layer buffers',
    bytes: count * sizeBytes,
    reason: `${counted(count, 'buffer')} of the largest layer, ${formatBytes(sizeBytes)}: one computes, the others fill`,
  };
}

function residentTerm(resident: number, layers: number, bytes: number): PlanTerm {
  const reason = `${resident} of ${counted(layers, 'layer')} ${resident === 1 ? 'rests' : 'rest'} on each device`;
  return { tier: 'gpu', name: 'resident layers', bytes, reason };
}
