// Chooses how much is computed together and which tier each layer rests in, or refuses with the numbers.

import { OperatingError, present } from './errors.js';
import type { BufferPlan, PlanTerm, Tier } from './plan.js';
import { type DevicePlace, placeOnDevice, smallestDeviceTerms, spreadTiers } from './plan-device.js';
import {
  keepRowsOfPass,
  microBatchCandidates,
  type Sizes,
  type Sizing,
  type Work,
  workingMemory,
} from './plan-sizes.js';
import { formatBytes } from './units.js';

/** Below this, prefill reads weights from memory so often that streaming a few layers is the better choice. */
const SMALLEST_USEFUL_TOKENS = 64;
/** The same for a device, where products need more tokens to be worth their weights. */
const SMALLEST_USEFUL_ON_DEVICE = 512;
/** Reading two layers ahead keeps the drive busy while buffers change hands; more buys nothing that DRAM tier would not. */
const HOST_WINDOW_LAYERS = 4;

export interface Choice {
  readonly hostWindowLayers: number;
  readonly deviceBuffers: BufferPlan;
  readonly tiers: readonly Tier[];
  readonly sizes: Sizes;
  readonly terms: readonly PlanTerm[];
}

/** A size of micro-batches, with everything it needs but host memory for layers. */
interface Candidate {
  readonly tokens: number;
  readonly sizes: Sizes;
  readonly terms: readonly PlanTerm[];
  readonly place: DevicePlace;
  /** In DRAM, of the layers that do not rest on the devices. */
  readonly restBytes: readonly number[];
}

/** What a candidate needs, and what of it. */
interface Needs {
  readonly bytes: number;
  readonly terms: readonly PlanTerm[];
  /** Of layers that would have to rest in DRAM. */
  readonly weightBytes: number;
}

/**
 * The largest micro-batch with which the working memory and two host buffers fit; then one buffer. What is left
 * holds layers (or, with everything on the drive, more buffers). Devices come first: what rests there needs no DRAM.
 */
export function choosePlaces(sizing: Sizing): Choice {
  const { options } = sizing;
  const candidates = candidatesOf(sizing);
  const first = candidates[0];
  if (!first) throw deviceRefusal(sizing);
  const windows = options.hostWindowLayers ? [options.hostWindowLayers] : [2, 1];
  let smallest: Needs | undefined;
  if (options.offload !== 'nvme') {
    const worthwhile = options.offload === 'dram' ? 1 : Math.min(SMALLEST_USEFUL_TOKENS, first.tokens);
    for (const candidate of candidates) {
      const { tokens, terms, restBytes } = candidate;
      const weightBytes = total(restBytes);
      if (tokens < worthwhile || weightBytes > (options.residentBytes ?? Number.POSITIVE_INFINITY)) continue;
      // Nothing passes through host buffers then, but for layers on their way to rest on devices.
      for (const window of candidate.place.resident.includes(true) ? windows : [0]) {
        const needed = sum(terms) + weightBytes + window * sizing.hostBufferBytes;
        if (needed <= options.dramBudgetBytes) {
          const kept = keepRowsOfPass(sizing, candidate.sizes, terms, options.dramBudgetBytes - needed);
          return choice(sizing, { ...candidate, ...kept }, window, restBytes.length);
        }
        if (options.offload === 'dram') smallest = lesser(smallest, { bytes: needed, terms, weightBytes });
      }
    }
  }
  if (options.offload !== 'dram') {
    for (const window of windows) {
      for (const candidate of candidates) {
        const { terms } = candidate;
        const needed = sum(terms) + window * sizing.hostBufferBytes;
        if (needed <= options.dramBudgetBytes) return spendTheRest(sizing, candidate, window);
        const withBuffers = [...terms, bufferTerm(sizing, window, false)];
        smallest = lesser(smallest, { bytes: needed, terms: withBuffers, weightBytes: 0 });
      }
    }
  }
  throw refusal(sizing, present(smallest, 'a plan that is too large'));
}

/** Those that devices can hold, best first: keys and values on the device if that leaves micro-batches of a useful size. */
function candidatesOf(sizing: Sizing): Candidate[] {
  const { options } = sizing;
  const onDevice = options.kvOffload && !options.computesInPlace ? [] : candidatesWith(sizing, 'device');
  const most = microBatchCandidates(sizing)[0] ?? 1;
  const useful = Math.min(SMALLEST_USEFUL_ON_DEVICE, most);
  const enough = options.computesInPlace || onDevice.some(({ tokens }) => tokens >= useful);
  const candidates = enough ? onDevice : [...candidatesWith(sizing, 'dram'), ...onDevice];
  // A micro-batch that is somewhat smaller is worth it when nothing has to stream then.
  const whole = candidates.filter(({ tokens, restBytes }) => restBytes.length === 0 && tokens >= useful);
  return [...whole, ...candidates.filter((candidate) => !whole.includes(candidate))];
}

function candidatesWith(sizing: Sizing, kv: Work['kv']): Candidate[] {
  return microBatchCandidates(sizing).flatMap((tokens) =>
    sequenceCandidates(sizing, kv, tokens).flatMap((sequences): Candidate[] => {
      const { sizes, terms } = workingMemory(sizing, { tokens, sequences, kv });
      const place = placeOnDevice(sizing, terms);
      if (!place) return [];
      const restBytes = sizing.hostLayerBytes.filter((_, index) => !place.resident[index]);
      return [{ tokens, sizes, terms: [...terms, ...place.terms], place, restBytes }];
    }),
  );
}

/** How many sequences a micro-batch may have: fewer need smaller buffers for keys and values that rest in DRAM. */
function sequenceCandidates({ workload, options }: Sizing, kv: Work['kv'], tokens: number): number[] {
  const most = Math.min(options.microBatchSequences ?? workload.sequences, tokens);
  if (kv === 'device') return [most];
  const candidates: number[] = [];
  for (let sequences = most; sequences >= 1; sequences = Math.floor(sequences / 2))
    candidates.push(sequences);
  return candidates;
}

function lesser(known: Needs | undefined, other: Needs): Needs {
  return known && known.bytes <= other.bytes ? known : other;
}

function spendTheRest(sizing: Sizing, candidate: Candidate, smallestWindow: number): Choice {
  const { options, hostBufferBytes, hostLayerBytes } = sizing;
  const { terms, restBytes } = candidate;
  const left = options.dramBudgetBytes - sum(terms);
  const affordable = Math.floor(left / hostBufferBytes);
  const window =
    options.hostWindowLayers ??
    Math.max(smallestWindow, Math.min(HOST_WINDOW_LAYERS, affordable, Math.max(2, hostLayerBytes.length)));
  let residentLayers = 0;
  if (options.offload === 'auto') {
    const forLayers = Math.min(
      left - window * hostBufferBytes,
      options.residentBytes ?? Number.POSITIVE_INFINITY,
    );
    while (residentLayers < restBytes.length - 1) {
      if (residentBytes(restBytes, residentLayers + 1) > forLayers) break;
      residentLayers++;
    }
  }
  return choice(sizing, candidate, window, residentLayers);
}

/** @param residentLayers of those that do not rest on the devices, how many rest in DRAM */
function choice(sizing: Sizing, candidate: Candidate, window: number, residentLayers: number): Choice {
  const { place, sizes, restBytes } = candidate;
  const terms = [...candidate.terms];
  const onDrive = restBytes.length - residentLayers;
  if (window > 0) terms.push(bufferTerm(sizing, window, onDrive === 0));
  if (residentLayers > 0) terms.push(residentTerm(restBytes, residentLayers, place.resident.length));
  const inDram = spreadTiers(restBytes.length, residentLayers);
  let next = 0;
  const tiers = place.resident.map((resident): Tier => {
    if (resident) return 'gpu';
    return inDram[next++] ? 'dram' : 'nvme';
  });
  return { hostWindowLayers: window, deviceBuffers: place.buffers, tiers, sizes, terms };
}

function residentBytes(layerBytes: readonly number[], residentLayers: number): number {
  const resident = spreadTiers(layerBytes.length, residentLayers);
  return layerBytes.reduce((all, bytes, index) => all + (resident[index] ? bytes : 0), 0);
}

function residentTerm(layerBytes: readonly number[], residentLayers: number, layers: number): PlanTerm {
  return {
    tier: 'dram',
    name: 'resident layers',
    bytes: residentBytes(layerBytes, residentLayers),
    reason: `${residentLayers} of ${layers} layers rest in DRAM`,
  };
}

function bufferTerm({ hostBufferBytes }: Sizing, window: number, onlyLoads: boolean): PlanTerm {
  const use = onlyLoads
    ? 'layers pass through them once, on their way to rest on the device'
    : 'one computes, the others fill';
  return {
    tier: 'dram',
    name: 'host buffers',
    bytes: window * hostBufferBytes,
    reason: `${window} buffers of the largest layer, ${formatBytes(hostBufferBytes)}: ${use}`,
  };
}

function total(bytes: readonly number[]): number {
  return bytes.reduce((all, one) => all + one, 0);
}

function sum(terms: readonly PlanTerm[], tier: PlanTerm['tier'] = 'dram'): number {
  return total(terms.map((term) => (term.tier === tier ? term.bytes : 0)));
}

function refusal(sizing: Sizing, smallest: Needs): OperatingError {
  const { options, workload } = sizing;
  const parts = partsOf(smallest.terms, 'dram');
  const smallestMiB = Math.ceil(smallest.bytes / 1024 ** 2);
  const remedies = [`give --dram_memory ${smallestMiB}MiB or more`];
  if (options.offload === 'dram') {
    parts.push(`weights ${formatBytes(smallest.weightBytes)}`);
    remedies.push('use --nvme_offload_path DIR instead of --cpu_offload');
  }
  if (workload.sequences > 1) remedies.push('lower --batch_size');
  return new OperatingError(
    'DOES_NOT_FIT',
    `${options.dramBudgetName} is ${formatBytes(options.dramBudgetBytes)}, but the smallest plan needs ` +
      `${formatBytes(smallest.bytes)} (${smallestMiB} MiB): ${parts.join(', ')}; ${remedies.join(', or ')}`,
  );
}

function deviceRefusal(sizing: Sizing): OperatingError {
  const { options, workload } = sizing;
  const tokens = present(microBatchCandidates(sizing).at(-1), 'a candidate');
  const needs = (['device', 'dram'] as const)
    .map((kv) => [
      ...workingMemory(sizing, { tokens, sequences: 1, kv }).terms,
      ...smallestDeviceTerms(sizing),
    ])
    .sort((a, b) => sum(a, 'gpu') - sum(b, 'gpu'));
  const terms = present(needs[0], 'needs');
  const remedies = [workload.sequences > 1 ? 'lower --batch_size, or shorten prompts' : 'shorten the prompt'];
  if (options.deviceResident) remedies.push('lower --gpu_resident');
  return new OperatingError(
    'DOES_NOT_FIT',
    `${options.deviceBudgetName ?? 'the memory of a device'} is ${formatBytes(options.deviceBudgetBytes ?? 0)}, but the smallest plan needs ` +
      `${formatBytes(sum(terms, 'gpu'))} of it: ${partsOf(terms, 'gpu').join(', ')}; ${remedies.join(', or ')}`,
  );
}

function partsOf(terms: readonly PlanTerm[], tier: PlanTerm['tier']): string[] {
  return terms
    .filter((term) => term.tier === tier && term.bytes > 0)
    .map((term) => `${term.name} ${formatBytes(term.bytes)}`);
}
