// What a device with memory of its own holds of the layers: those that rest there, and buffers for those that pass by.

import { present } from '../errors.js';
import { counted, formatBytes, roundUp } from '../units.js';
import { ALLOCATION_BYTES } from './device-costs.js';
import { type Draft, sumOf } from './draft.js';
import type { PlanInput, PlanOptions } from './input.js';
import type { BufferPlan, PlanTerm, Sizes, SlotPlan } from './plan.js';
import { choicesOf, mostChoosingTokens, slotWords, totalWords } from './slots.js';
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

/**
 * All but the experts of mixtures rests on the devices, and as many slots for these as fit beside; undefined where that cannot be.
 */
export function placeSlots(input: PlanInput, sizes: Sizes): Draft | undefined {
  const { options, experts, model } = input;
  const mixtures = experts.filter((one) => one !== undefined);
  const wanted = options.expertSlots ?? 'auto';
  const isOpen = options.offload !== 'nvme' && (options.deviceResident ?? 'auto') === 'auto';
  const isKnown = options.deviceBudgetBytes !== undefined || wanted !== 'auto';
  if (wanted === 0 || mixtures.length === 0 || !isOpen || !isKnown || options.computesInPlace)
    return undefined;
  const keys = mixtures.reduce((sum, { count }) => sum + count, 0);
  const bytes = mixtures.reduce((most, { slotBytes }) => Math.max(most, slotBytes), 0);
  const terms = [...sizes.terms, ...baseTerms(input)];
  const [deviceBuffers] = streamBuffers(input, true);
  if (deviceBuffers) terms.push(bufferTerm(deviceBuffers));
  const tables = tableTerm(input, keys);
  const budget = options.deviceBudgetBytes ?? Number.POSITIVE_INFINITY;
  const free = budget - sumOf([...terms, tables], 'gpu') - SLOT_ROUNDING_BYTES;
  const count = Math.min(keys, wanted === 'auto' ? Math.floor(free / bytes) : wanted);
  const choices = choicesOf(model);
  const perLayer = mixtures.reduce((most, one) => Math.max(most, one.count), 0);
  const mostTokens = mostChoosingTokens(count, choices, perLayer);
  if (count * bytes > free || mostTokens < 1 || !deviceBuffers) return undefined;
  const slots: SlotPlan = { count, bytes, keys, choices, mostTokens };
  terms.push(tables, slotTerm(slots));
  const onDevices = experts.map((one) => one === undefined);
  const restBytes = restOf(input, onDevices);
  const { resident: inDram } = spreadOf(restBytes, 0);
  return { sizes, onDevices, deviceBuffers, slots, restBytes, inDram, hostWindowLayers: 0, terms };
}

/** Two memories hold slots and tables. */
const SLOT_ROUNDING_BYTES = 2 * ALLOCATION_BYTES;

/** Layers without experts, and what the others have beside these. */
function baseTerms({ options, experts, deviceLayerBytes }: PlanInput): PlanTerm[] {
  const allocated = options.cuda ? ALLOCATION_BYTES : 1;
  let [whole, bytes] = [0, 0];
  experts.forEach((one, index) => {
    if (!one) whole++;
    bytes += one ? roundUp(one.base.sizeBytes, allocated) : (deviceLayerBytes[index] ?? 0);
  });
  const mixtures = experts.length - whole;
  const reason = `${counted(whole, 'layer')} whole, and all but the experts of ${counted(mixtures, 'layer')}, rest on each device`;
  return [{ tier: 'gpu', name: 'resident layers', bytes, reason }];
}

function tableTerm({ experts }: PlanInput, keys: number): PlanTerm {
  const words = slotWords(
    { count: keys, keys },
    experts.filter((one) => one !== undefined),
  );
  return {
    tier: 'gpu',
    name: 'slot tables',
    bytes: 4 * totalWords(words),
    reason: 'which expert lies where, and where each comes from',
  };
}

function slotTerm({ count, bytes, keys }: SlotPlan): PlanTerm {
  const reason = `${counted(count, 'slot')} of ${formatBytes(bytes)} for ${keys} experts of all layers, which come when they are chosen`;
  return { tier: 'gpu', name: 'expert slots', bytes: count * bytes, reason };
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

function restOf({ hostLayerBytes }: PlanInput, resident: readonly boolean[]): readonly number[] {
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
function streamBuffers({ options, transfer, deviceBufferBytes }: PlanInput, mayRest: boolean): BufferPlan[] {
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
