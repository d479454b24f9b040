// What a device with memory of its own holds of the layers: those that rest there, and buffers for those that pass by.

import { present } from '../errors.js';
import { gatheredBytes } from '../model/layout.js';
import { counted, formatBytes } from '../units.js';
import { allocatedBytes } from './device-costs.js';
import { type Draft, sumOf } from './draft.js';
import type { PlanInput, PlanOptions } from './input.js';
import type { BufferPlan, PlanTerm, Sizes } from './plan.js';
import { restTables } from './row-memory.js';
import { mostAtRest, spreadOf } from './spread.js';

const DEVICE_WINDOW_LAYERS = 2;
const RESIDENT = 'resident layers';
export const NO_BUFFERS: BufferPlan = { count: 0, sizeBytes: 0 };

/** With nothing in DRAM yet but what the sizes take: layers at rest whole, and in shards where that can be; none where devices cannot hold even that. */
export function placeOnDevices(input: PlanInput, sizes: Sizes): Draft[] {
  const { restsInShards } = input.options;
  const inShards = restsInShards === false ? undefined : placeShards(input, sizes);
  const whole = restsInShards && mayShard(input) ? undefined : placeWhole(input, sizes);
  return [whole, inShards].filter((draft) => draft !== undefined);
}

function placeWhole(input: PlanInput, sizes: Sizes): Draft | undefined {
  const { options, deviceLayerBytes } = input;
  const layerCount = deviceLayerBytes.length;
  if (options.computesInPlace) return draftOf(input, sizes, wholeAtRest(input, 0), NO_BUFFERS);
  const free = (options.deviceBudgetBytes ?? Number.POSITIVE_INFINITY) - sumOf(sizes.terms, 'gpu');
  const wanted = wantedResidents(options, layerCount);
  // Everything at rest needs no buffers.
  const fitsWhole =
    wanted.layers === layerCount &&
    spreadOf(deviceLayerBytes, layerCount).bytes <= Math.min(free, wanted.bytes);
  if (fitsWhole) {
    const all = wholeAtRest(input, layerCount);
    const draft = draftOf(input, sizes, all, NO_BUFFERS);
    return restTables(input, draft, Math.min(free, wanted.bytes) - (all.term?.bytes ?? 0));
  }
  const buffers = streamBuffers(input, wanted.layers > 0).find(
    ({ count, sizeBytes }) => count * sizeBytes <= free,
  );
  if (!buffers) return undefined;
  const forLayers = free - buffers.count * buffers.sizeBytes;
  const most = Math.min(wanted.layers, layerCount - 1);
  const count = mostAtRest(deviceLayerBytes, most, Math.min(forLayers, wanted.bytes));
  if (wanted.exactly && count < wanted.layers) return undefined;
  return draftOf(input, sizes, wholeAtRest(input, count), buffers);
}

/** Devices copy from each other, and what rests there is to be gathered. */
function mayShard({ options, transfer }: PlanInput): boolean {
  return options.deviceCount > 1 && !options.computesInPlace && transfer.by === 'peer';
}

/** As many layers as fit at 1/N of their size beside buffers to gather them in; where all do, some of them whole. */
function placeShards(input: PlanInput, sizes: Sizes): Draft | undefined {
  const { options, deviceLayerBytes } = input;
  if (!mayShard(input)) return undefined;
  const layerCount = deviceLayerBytes.length;
  const wanted = wantedResidents(options, layerCount);
  const free = (options.deviceBudgetBytes ?? Number.POSITIVE_INFINITY) - sumOf(sizes.terms, 'gpu');
  const buffers = streamBuffers(input, true).find(({ count, sizeBytes }) => count * sizeBytes <= free);
  if (!buffers || wanted.layers === 0) return undefined;
  const { shards: shardBytes, more } = shardSizes(input);
  const room = Math.min(free - buffers.count * buffers.sizeBytes, wanted.bytes);
  const count = mostAtRest(shardBytes, wanted.layers, room);
  if (count === 0 || (wanted.exactly && count < wanted.layers)) return undefined;
  const sharded = spreadOf(shardBytes, count);
  const wholes =
    count === layerCount && !wanted.exactly
      ? spreadOf(more, mostAtRest(more, layerCount - 1, room - sharded.bytes))
      : undefined;
  const inShards = sharded.resident.map((resident, index) => resident && !wholes?.resident[index]);
  const bytes = sharded.bytes + (wholes?.bytes ?? 0);
  const term = shardsTerm(input, inShards, sharded.resident, bytes);
  return { ...draftOf(input, sizes, { resident: sharded.resident, term }, buffers), inShards };
}

interface ShardSizes {
  /** What a device has of each layer in shards; equal on all. */
  readonly shards: readonly number[];
  /** How much more it has of one that rests whole. */
  readonly more: readonly number[];
}

/** The same for all that is weighed. */
const knownShards = new WeakMap<PlanInput, ShardSizes>();

function shardSizes(input: PlanInput): ShardSizes {
  const before = knownShards.get(input);
  if (before) return before;
  const { deviceCount } = input.options;
  const shards = input.layers.map(({ layout }) =>
    allocatedBytes(input.options, gatheredBytes(layout.device.sizeBytes, deviceCount) / deviceCount),
  );
  const more = input.deviceLayerBytes.map((bytes, index) => bytes - (shards[index] ?? 0));
  const sizes = { shards, more };
  knownShards.set(input, sizes);
  return sizes;
}

function shardsTerm(
  { options }: PlanInput,
  inShards: readonly boolean[],
  resident: readonly boolean[],
  bytes: number,
): PlanTerm {
  const shards = inShards.filter((is) => is).length;
  const whole = resident.filter((is) => is).length - shards;
  const beside = whole > 0 ? `, ${whole} whole` : '';
  const reason = `${shards} of ${counted(resident.length, 'layer')} ${shards === 1 ? 'rests' : 'rest'} in shards, 1/${options.deviceCount} on each device${beside}`;
  return { tier: 'gpu', name: RESIDENT, bytes, reason };
}

/** What rests on devices, and the term that says so. */
interface AtRest {
  readonly resident: readonly boolean[];
  readonly term: PlanTerm | undefined;
}

/** @param count of the layers that rest on every device */
function wholeAtRest({ deviceLayerBytes }: PlanInput, count: number): AtRest {
  const { resident, bytes } = spreadOf(deviceLayerBytes, count);
  return { resident, term: count > 0 ? residentTerm(count, resident.length, bytes) : undefined };
}

function draftOf(
  input: PlanInput,
  sizes: Sizes,
  { resident, term }: AtRest,
  deviceBuffers: BufferPlan,
): Draft {
  const terms = [...sizes.terms];
  if (deviceBuffers.count > 0) terms.push(bufferTerm(deviceBuffers));
  if (term) terms.push(term);
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
  // What a stage of a pipeline has, about.
  if (input.batches > 1) return [bufferTerm(present(streamBuffers(input, true).at(-1), 'buffers'))];
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
export function wantedResidents(
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
  return { tier: 'gpu', name: RESIDENT, bytes, reason };
}
