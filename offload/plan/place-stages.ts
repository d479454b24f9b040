// Which consecutive layers each device of a pipeline has: so that the slowest stage is as fast as can be, in the memory of each.

import { blockPages, cachePageBytes } from '../model/kv-cache.js';
import { statesBytes } from '../model/state-cache.js';
import { counted, formatBytes } from '../units.js';
import { bufferTerm, NO_BUFFERS, restOf, streamBuffers, wantedResidents } from './device-layers.js';
import { type Draft, sumOf, total } from './draft.js';
import type { PlanInput } from './input.js';
import type { BufferPlan, PlanTerm, Sizes, StagePlan } from './plan.js';
import { LINK_BYTES_PER_SECOND } from './price.js';
import { mostAtRest, spreadOf, spreadTiers } from './spread.js';
import { layerJobMs } from './stage-price.js';
import { mayBegin } from './stages.js';

/** What one device has of the layers. */
interface Stage extends StagePlan {
  readonly resident: readonly boolean[];
  readonly residentBytes: number;
  readonly keptBytes: number;
  readonly buffers: BufferPlan;
}

/** Undefined where some device cannot hold its part. */
export function placeInStages(input: PlanInput, sizes: Sizes): Draft | undefined {
  const { layers, options } = input;
  const kept = keptBytes(input, sizes);
  const cuts = cutStages(input, sizes, kept);
  const stages = cuts?.map((cut, device) =>
    placeStage(input, cut, total(kept.slice(cut.first, cut.end)), freeOn(input, sizes, device)),
  );
  if (!stages?.every((stage) => stage !== undefined)) return undefined;
  const resident = stages.flatMap((stage) => stage.resident);
  const restBytes = restOf(input, resident);
  const { resident: inDram } = spreadOf(restBytes, 0);
  const bytesOf = ({ residentBytes, keptBytes, buffers }: Stage) =>
    residentBytes + keptBytes + buffers.count * buffers.sizeBytes;
  const fullest = stages.reduce((most, one) => (bytesOf(one) > bytesOf(most) ? one : most));
  const streaming = stages.flatMap(({ buffers }) => (buffers.count > 0 ? [buffers] : []));
  const deviceBuffers = streaming.reduce<BufferPlan>(
    (least, one) => (least.count === 0 || one.count < least.count ? one : least),
    NO_BUFFERS,
  );
  const terms: PlanTerm[] = [...sizes.terms];
  if (fullest.keptBytes > 0) terms.push(keptTerm(fullest));
  if (deviceBuffers.count > 0) terms.push(bufferTerm(deviceBuffers));
  if (fullest.residentBytes > 0) terms.push(residentTerm(fullest, layers.length, options.deviceCount));
  return {
    sizes,
    onDevices: resident,
    deviceBuffers,
    restBytes,
    inDram,
    hostWindowLayers: 0,
    stages: stages.map(({ first, end }) => ({ first, end })),
    terms,
  };
}

/** Where keys and values lie on devices: what a batch keeps of each layer's block, times the batches. */
function keptBytes(input: PlanInput, sizes: Sizes): number[] {
  const { model, kvType: dtype, options, workload, layers } = input;
  const { sequences, contextTokens } = workload;
  const pages = blockPages(model.caches, sizes);
  const onDevices = sizes.kvBuffers.count === 0;
  const { pageTokens } = options;
  const format = { dtype, ...(pageTokens === undefined ? {} : { pageTokens }) };
  return layers.map(({ kind, index }) => {
    if (kind === 'head') return 0;
    const cache = model.caches[index];
    const states = statesBytes(cache ? [cache] : [], { slots: sequences, contextTokens });
    const paged =
      cache?.kind === 'paged' && onDevices ? (pages[index] ?? 0) * cachePageBytes(cache, format) : 0;
    return input.batches * (states + paged);
  });
}

function freeOn({ options }: PlanInput, sizes: Sizes, device: number): number {
  const budget = options.deviceBudgets?.[device] ?? options.deviceBudgetBytes ?? Number.POSITIVE_INFINITY;
  return budget - sumOf(sizes.terms, 'gpu');
}

/** The cut whose slowest stage is the fastest: by what its layers compute, or by what its link brings of those that do not fit. */
function cutStages(input: PlanInput, sizes: Sizes, keptBytes: readonly number[]): StagePlan[] | undefined {
  const { layers, model, deviceLayerBytes, options } = input;
  const may = mayBegin(model.caches, layers);
  const until = (values: readonly number[]) => {
    const sums = [0];
    for (const value of values) sums.push((sums.at(-1) ?? 0) + value);
    return (first: number, end: number) => (sums[end] ?? 0) - (sums[first] ?? 0);
  };
  const job = layerJobMs(input, sizes);
  const [ms, bytes, kept] = [until(job.layers), until(deviceLayerBytes), until(keptBytes)];
  const buffers = streamBuffers(input, true).map(({ count, sizeBytes }) => count * sizeBytes);
  const leastBuffers = Math.min(...buffers);
  const rests = wantedResidents(options, layers.length);
  const freeEach = Array.from({ length: input.batches }, (_, device) => freeOn(input, sizes, device));
  const cost = (device: number, first: number, end: number): number => {
    const free = (freeEach[device] ?? 0) - kept(first, end);
    const own = bytes(first, end);
    const room = Math.min(free, rests.layers > 0 ? rests.bytes : 0);
    if (rests.layers === layers.length && own <= room) return ms(first, end);
    if (free < leastBuffers) return Number.POSITIVE_INFINITY;
    const streamed = own - Math.max(0, Math.min(own, room - leastBuffers));
    return Math.max(ms(first, end), (job.passes * streamed * 1e3) / LINK_BYTES_PER_SECOND);
  };
  // By layers that earlier devices have: the slowest of their stages, and where the last of them begins.
  let best = [{ slowest: 0, cuts: [] as number[] }, ...layers.map(() => undefined)] as (
    | { readonly slowest: number; readonly cuts: readonly number[] }
    | undefined
  )[];
  for (let device = 0; device < input.batches; device++) {
    const next: typeof best = [undefined];
    for (let end = 1; end <= layers.length; end++) {
      let found: (typeof best)[number];
      for (let first = end - 1; first >= 0; first--) {
        const before = best[first];
        const own = cost(device, first, end);
        // More layers never take less.
        if (own >= (found?.slowest ?? Number.POSITIVE_INFINITY)) break;
        if (!before || !may[first]) continue;
        const slowest = Math.max(before.slowest, own);
        if (Number.isFinite(slowest) && (!found || slowest < found.slowest)) {
          found = { slowest, cuts: [...before.cuts, first] };
        }
      }
      next[end] = found;
    }
    best = next;
  }
  const cuts = best[layers.length]?.cuts;
  return cuts?.map((first, stage) => ({ first, end: cuts[stage + 1] ?? layers.length }));
}

function placeStage(
  input: PlanInput,
  { first, end }: StagePlan,
  kept: number,
  freeBytes: number,
): Stage | undefined {
  const { options, layers, deviceLayerBytes } = input;
  const own = deviceLayerBytes.slice(first, end);
  const free = freeBytes - kept;
  const rests = wantedResidents(options, layers.length);
  // Where so many of all are asked for, they lie evenly among all.
  const asked = rests.exactly ? spreadTiers(layers.length, rests.layers).slice(first, end) : undefined;
  const place = (resident: readonly boolean[], buffers: BufferPlan): Stage => {
    const residentBytes = own.reduce((sum, bytes, index) => sum + (resident[index] ? bytes : 0), 0);
    return { first, end, resident, residentBytes, keptBytes: kept, buffers };
  };
  const all = own.map(() => true);
  const fits = rests.layers === layers.length && total(own) <= Math.min(free, rests.bytes);
  if (fits) return place(all, NO_BUFFERS);
  const buffers = streamBuffers(input, rests.layers > 0).find(
    ({ count, sizeBytes }) => count * sizeBytes <= free,
  );
  if (!buffers) return undefined;
  const room = free - buffers.count * buffers.sizeBytes;
  if (asked) {
    const stage = place(asked, asked.includes(false) ? buffers : NO_BUFFERS);
    return stage.residentBytes <= (asked.includes(false) ? room : free) ? stage : undefined;
  }
  const most = rests.layers === 0 ? 0 : own.length - 1;
  const count = mostAtRest(own, most, Math.min(room, rests.bytes));
  return place(spreadTiers(own.length, count), buffers);
}

function keptTerm({ first, end, keptBytes: bytes }: Stage): PlanTerm {
  const reason = `of all batches on their way, in the ${counted(end - first, 'layer')} of the fullest device`;
  return { tier: 'gpu', name: 'key-value cache', bytes, reason };
}

function residentTerm({ resident, residentBytes }: Stage, layers: number, devices: number): PlanTerm {
  const count = resident.filter((rests) => rests).length;
  const reason = `${count} of ${counted(layers, 'layer')} ${count === 1 ? 'rests' : 'rest'} on the fullest of ${devices} devices, ${formatBytes(residentBytes)}; the others have their own`;
  return { tier: 'gpu', name: 'resident layers', bytes: residentBytes, reason };
}
