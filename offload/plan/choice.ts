// Chooses how much is computed together and which tier each layer rests in, or refuses with the numbers.

import { OperatingError, present } from '../errors.js';
import { counted, formatBytes } from '../units.js';
import {
  type DevicePlace,
  mostAtRest,
  placeOnDevice,
  smallestDeviceTerms,
  spreadOf,
} from './device-layers.js';
import type { BufferPlan, PlanTerm, Tier } from './plan.js';
import { jobMs } from './price.js';
import {
  keepRowsOfPass,
  microBatchCandidates,
  passCandidates,
  type Sizes,
  type Sizing,
  type Work,
  workingMemory,
} from './sizes.js';

/** Below this, prefill reads weights from memory so often that streaming a few layers is the better choice. */
const SMALLEST_USEFUL_TOKENS = 64;
/** On a device, where products of fewer tokens take about the time of this many, what they save is not worth weighing. */
const SMALLEST_WEIGHED_TOKENS = 256;
/** Reading two layers ahead keeps the drive busy while buffers change hands; more buys nothing that DRAM tier would not. */
const HOST_WINDOW_LAYERS = 4;

export interface Choice {
  readonly hostWindowLayers: number;
  readonly deviceBuffers: BufferPlan;
  readonly tiers: readonly Tier[];
  readonly sizes: Sizes;
  readonly terms: readonly PlanTerm[];
}

/** A choice that was weighed. */
export interface PricedChoice extends Choice {
  /** `Plan.jobMs` */
  readonly jobMs: number;
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
 * In place, the largest micro-batch with which the working memory and two host buffers fit; then one buffer. On devices,
 * of all that fit what takes the job least time. What is left of DRAM holds layers (or, with everything on the drive,
 * more buffers). Devices come first: what rests there needs no DRAM.
 */
export function choosePlaces(sizing: Sizing): PricedChoice {
  const tokens = microBatchCandidates(sizing);
  const large = tokens.filter((count) => count >= SMALLEST_WEIGHED_TOKENS);
  const choose = sizing.options.computesInPlace ? firstInPlace : fastest;
  for (const some of sizing.options.computesInPlace ? [tokens] : [large, tokens]) {
    const found = choose(sizing, candidatesOf(sizing, some));
    if (found) return found;
  }
  const candidates = candidatesOf(sizing, tokens);
  throw candidates.length === 0 ? deviceRefusal(sizing) : refusal(sizing, smallestNeeds(sizing, candidates));
}

function firstInPlace(sizing: Sizing, candidates: readonly Candidate[]): PricedChoice | undefined {
  const { options } = sizing;
  const most = candidates[0]?.tokens ?? 1;
  const worthwhile = options.offload === 'dram' ? 1 : Math.min(SMALLEST_USEFUL_TOKENS, most);
  for (const candidate of candidates) {
    const choice = candidate.tokens < worthwhile ? undefined : allInDram(sizing, candidate);
    if (choice) return priced(sizing, choice);
  }
  for (const window of windowsOf(sizing)) {
    for (const candidate of candidates) {
      const choice = partlyOnDrive(sizing, candidate, window);
      if (choice) return priced(sizing, choice);
    }
  }
  return undefined;
}

function priced(sizing: Sizing, choice: Choice): PricedChoice {
  return { ...choice, jobMs: jobMs(sizing, choice) };
}

/** Of equals the first. */
function fastest(sizing: Sizing, candidates: readonly Candidate[]): PricedChoice | undefined {
  const windows = windowsOf(sizing);
  let best: PricedChoice | undefined;
  for (const candidate of candidates) {
    const choice =
      allInDram(sizing, candidate) ??
      windows.reduce<Choice | undefined>(
        (found, window) => found ?? partlyOnDrive(sizing, candidate, window),
        undefined,
      );
    if (!choice) continue;
    const other = priced(sizing, choice);
    if (!best || other.jobMs < best.jobMs) best = other;
  }
  return best;
}

function windowsOf({ options }: Sizing): number[] {
  return options.hostWindowLayers ? [options.hostWindowLayers] : [2, 1];
}

/** Buffers for layers on their way to rest on devices; none where nothing passes through them. */
function windowsInDram(sizing: Sizing, { place }: Candidate): number[] {
  return place.resident.includes(true) ? windowsOf(sizing) : [0];
}

/** No layer on the drive, if that fits. */
function allInDram(sizing: Sizing, candidate: Candidate): Choice | undefined {
  const { options } = sizing;
  const { terms, restBytes } = candidate;
  const weightBytes = total(restBytes);
  if (options.offload === 'nvme' || weightBytes > (options.residentBytes ?? Number.POSITIVE_INFINITY)) {
    return undefined;
  }
  for (const window of windowsInDram(sizing, candidate)) {
    const needed = sum(terms) + weightBytes + window * sizing.hostBufferBytes;
    if (needed > options.dramBudgetBytes) continue;
    const kept = keepRowsOfPass(sizing, candidate.sizes, terms, options.dramBudgetBytes - needed);
    return choice(sizing, { ...candidate, ...kept }, window, restBytes.length);
  }
  return undefined;
}

/** As many layers in DRAM as it then holds, if that many buffers fit at all. */
function partlyOnDrive(sizing: Sizing, candidate: Candidate, window: number): Choice | undefined {
  const { options, hostBufferBytes } = sizing;
  if (options.offload === 'dram') return undefined;
  if (sum(candidate.terms) + window * hostBufferBytes > options.dramBudgetBytes) return undefined;
  return spendTheRest(sizing, candidate, window);
}

/** Those with micro-batches of so many tokens that devices can hold, in that order. */
function candidatesOf(sizing: Sizing, tokens: readonly number[]): Candidate[] {
  const { computesInPlace, kvOffload } = sizing.options;
  const onDevice = kvOffload && !computesInPlace ? [] : candidatesWith(sizing, 'device', tokens);
  return computesInPlace ? onDevice : [...onDevice, ...candidatesWith(sizing, 'dram', tokens)];
}

function candidatesWith(sizing: Sizing, kv: Work['kv'], all: readonly number[]): Candidate[] {
  return all.flatMap((tokens) =>
    sequenceCandidates(sizing, kv, tokens).flatMap((sequences) =>
      passCandidates(sizing, tokens).flatMap((passTokens): Candidate[] => {
        const { sizes, terms } = workingMemory(sizing, { tokens, sequences, kv, passTokens });
        const place = placeOnDevice(sizing, terms);
        if (!place) return [];
        const restBytes = restOf(sizing, place.resident);
        return [{ tokens, sizes, terms: [...terms, ...place.terms], place, restBytes }];
      }),
    ),
  );
}

/** By what rests on devices. */
const knownRests = new WeakMap<readonly boolean[], readonly number[]>();

function restOf({ hostLayerBytes }: Sizing, resident: readonly boolean[]): readonly number[] {
  const rest = knownRests.get(resident) ?? hostLayerBytes.filter((_, index) => !resident[index]);
  knownRests.set(resident, rest);
  return rest;
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
    residentLayers = mostAtRest(restBytes, restBytes.length - 1, forLayers);
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
  const inDram = spreadOf(restBytes, residentLayers).resident;
  let next = 0;
  const tiers = place.resident.map((resident): Tier => {
    if (resident) return 'gpu';
    return inDram[next++] ? 'dram' : 'nvme';
  });
  return { hostWindowLayers: window, deviceBuffers: place.buffers, tiers, sizes, terms };
}

function residentTerm(layerBytes: readonly number[], residentLayers: number, layers: number): PlanTerm {
  return {
    tier: 'dram',
    name: 'resident layers',
    bytes: spreadOf(layerBytes, residentLayers).bytes,
    reason: `${residentLayers} of ${counted(layers, 'layer')} ${residentLayers === 1 ? 'rests' : 'rest'} in DRAM`,
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
    reason: `${counted(window, 'buffer')} of the largest layer, ${formatBytes(hostBufferBytes)}: ${use}`,
  };
}

function total(bytes: readonly number[]): number {
  return bytes.reduce((all, one) => all + one, 0);
}

function sum(terms: readonly PlanTerm[], tier: PlanTerm['tier'] = 'dram'): number {
  return total(terms.map((term) => (term.tier === tier ? term.bytes : 0)));
}

/** Of candidates that all need more DRAM than there is. */
function smallestNeeds(sizing: Sizing, candidates: readonly Candidate[]): Needs {
  const { options } = sizing;
  let smallest: Needs | undefined;
  for (const candidate of candidates) {
    const inDram = options.offload === 'dram';
    const weightBytes = inDram ? total(candidate.restBytes) : 0;
    for (const window of inDram ? windowsInDram(sizing, candidate) : windowsOf(sizing)) {
      const buffers = window > 0 ? [bufferTerm(sizing, window, inDram)] : [];
      const terms = [...candidate.terms, ...buffers];
      smallest = lesser(smallest, { bytes: sum(terms) + weightBytes, terms, weightBytes });
    }
  }
  return present(smallest, 'a plan that is too large');
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
