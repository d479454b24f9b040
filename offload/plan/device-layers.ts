// What a device with memory of its own holds of the layers: those that rest there, and buffers for those that pass by.

import { present } from '../errors.js';
import { counted, formatBytes } from '../units.js';
import { type Draft, sumOf } from './draft.js';
import type { PlanInput, PlanOptions } from './input.js';
import type { BufferPlan, PlanTerm, Sizes } from './plan.js';
import { mostAtRest, spreadOf } from './spread.js';

const DEVICE_WINDOW_LAYERS = 2;
const NO_BUFFERS: BufferPlan = { count: 0, sizeBytes: 0 };

/** With nothing in DRAM yet but what the sizes take; undefined where the devices cannot hold even that. */
export function placeOnDevices(input: PlanInput, sizes: Sizes): Draft | undefined {
  const { options, deviceLayerBytes } = input;
  const layerCount = deviceLayerBytes.length;
  if (options.computesInPlace) return draftOf(input, sizes, 0, NO_BUFFERS);
  const free = (options.deviceBudgetBytes ?? Number.POSITIVE_INFINITY) - sumOf(sizes.terms, 'gpu');
  const wanted = wantedResidents(options, layerCount);
  // Everything at rest needs no buffers.
  const fitsWhole =
    wanted.layers === layerCount &&
    spreadOf(deviceLayerBytes, layerCount).bytes <= Math.min(free, wanted.bytes);
  if (fitsWhole) return draftOf(input, sizes, layerCount, NO_BUFFERS);
  const buffers = streamBuffers(input, wanted.layers > 0).find(
    ({ count, sizeBytes }) => count * sizeBytes <= free,
  );
  if (!buffers) return undefined;
  const forLayers = free - buffers.count * buffers.sizeBytes;
  const most = Math.min(wanted.layers, layerCount - 1);
  const count = mostAtRest(deviceLayerBytes, most, Math.min(forLayers, wanted.bytes));
  if (wanted.exactly && count < wanted.layers) return undefined;
  return draftOf(input, sizes, count, buffers);
}

/** @param count of the layers that rest on every device */
function draftOf(input: PlanInput, sizes: Sizes, count: number, deviceBuffers: BufferPlan): Draft {
  const { resident, bytes } = spreadOf(input.deviceLayerBytes, count);
  const terms = [...sizes.terms];
  if (deviceBuffers.count > 0) terms.push(bufferTerm(deviceBuffers));
  if (count > 0) terms.push(residentTerm(count, resident.length, bytes));
  const restBytes = restOf(input, resident);
  const { resident: inDram } = spreadOf(restBytes, 0);
  return { sizes, onDevices: resident, deviceBuffers, restBytes, inDram, hostWindowLayers: 0, terms };
}

/** By what rests on devices: the same few spreads are asked for again and again. */
const knownRests = new WeakMap<readonly boolean[], readonly number[]>();

export function restOf({ hostLayerBytes }: PlanInput, resident: readonly boolean[]): readonly number[] {
  const rest = knownRests.get(resident) ?? hostLayerBytes.filter((_, index) => !resident[index]);
  knownRests.set(resident, rest);
  return rest;
}

/** What the device would have to hold beside its working memory, for a refusal. */
export function smallestDeviceTerms(input: PlanInput): PlanTerm[] {
  const { options, deviceLayerBytes } = input;
  if (options.computesInPlace) return [];
  const { layers, exactly } = wantedResidents(options, deviceLayerBytes.length);
  const stated =
    layers === deviceLayerBytes.length && exactly
      ? []
      : [bufferTerm(present(streamBuffers(input, true).at(-1), 'buffers'))];
  if (!exactly || layers === 0) return stated;
  const { bytes } = spreadOf(deviceLayerBytes, layers);
  return [...stated, residentTerm(layers, deviceLayerBytes.length, bytes)];
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
export function streamBuffers(
  { options, transfer, deviceBufferBytes }: PlanInput,
  mayRest: boolean,
): BufferPlan[] {
  const { deviceWindowLayers } = options;
  const usual =
    transfer.kind === 'shards' || !mayRest
      ? [DEVICE_WINDOW_LAYERS + 1, DEVICE_WINDOW_LAYERS]
      : [DEVICE_WINDOW_LAYERS];
  const counts = deviceWindowLayers === undefined ? usual : [deviceWindowLayers];
  return counts.map((count) => ({ count, sizeBytes: deviceBufferBytes }));
}

export function bufferTerm({ count, sizeBytes }: BufferPlan): PlanTerm {
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
