// What DRAM holds of the layers that do not rest on devices: all of them, or as many as fit beside buffers for the others.

import { counted, formatBytes } from '../units.js';
import { type Draft, sumOf, total } from './draft.js';
import type { PlanInput } from './input.js';
import type { PlanTerm } from './plan.js';
import { keepMoreRows, restTablesInDram } from './row-memory.js';
import { mostAtRest, spreadOf } from './spread.js';

/** Reading two layers ahead keeps the drive busy while buffers change hands; more buys nothing that DRAM tier would not. */
const HOST_WINDOW_LAYERS = 4;

/** How many buffers there may be at least, best first. */
export function windowsOf({ options }: PlanInput): number[] {
  return options.hostWindowLayers ? [options.hostWindowLayers] : [2, 1];
}

/** Buffers for layers on their way to rest on devices; none where nothing passes through them. */
export function windowsInDram(input: PlanInput, { onDevices }: Draft): number[] {
  return onDevices.includes(true) ? windowsOf(input) : [0];
}

/** No layer on the drive, if that fits. */
export function allInDram(input: PlanInput, draft: Draft): Draft | undefined {
  const { options } = input;
  const { terms, restBytes } = draft;
  const weightBytes = total(restBytes);
  if (options.offload === 'nvme' || weightBytes > (options.residentBytes ?? Number.POSITIVE_INFINITY)) {
    return undefined;
  }
  for (const window of windowsInDram(input, draft)) {
    const needed = sumOf(terms, 'dram') + weightBytes + window * hostBufferBytes(input);
    const free = options.dramBudgetBytes - needed;
    if (free < 0) continue;
    const resting = restTablesInDram(input, draft, free);
    const taken = sumOf(resting.terms, 'dram') - sumOf(terms, 'dram');
    return withDram(input, keepMoreRows(input, resting, free - taken), {
      window,
      residentLayers: restBytes.length,
    });
  }
  return undefined;
}

/** As many layers in DRAM as it then holds, if that many buffers fit at all. */
export function partlyOnDrive(input: PlanInput, draft: Draft, smallestWindow: number): Draft | undefined {
  const { options, hostLayerBytes } = input;
  if (options.offload === 'dram') return undefined;
  const left = options.dramBudgetBytes - sumOf(draft.terms, 'dram');
  const eachBytes = hostBufferBytes(input);
  if (smallestWindow * eachBytes > left) return undefined;
  const affordable = Math.floor(left / eachBytes);
  const window =
    options.hostWindowLayers ??
    Math.max(smallestWindow, Math.min(HOST_WINDOW_LAYERS, affordable, Math.max(2, hostLayerBytes.length)));
  let residentLayers = 0;
  if (options.offload === 'auto') {
    const forLayers = Math.min(left - window * eachBytes, options.residentBytes ?? Number.POSITIVE_INFINITY);
    residentLayers = mostAtRest(draft.restBytes, draft.restBytes.length - 1, forLayers);
  }
  return withDram(input, draft, { window, residentLayers });
}

/** @param residentLayers of those that do not rest on the devices, how many rest in DRAM */
function withDram(
  input: PlanInput,
  draft: Draft,
  { window, residentLayers }: { readonly window: number; readonly residentLayers: number },
): Draft {
  const { restBytes, onDevices } = draft;
  const { resident: inDram, bytes } = spreadOf(restBytes, residentLayers);
  const terms = [...draft.terms];
  if (window > 0) terms.push(hostBufferTerm(input, window, residentLayers === restBytes.length));
  if (residentLayers > 0) terms.push(residentTerm(residentLayers, onDevices.length, bytes));
  return { ...draft, inDram, hostWindowLayers: window, terms };
}

function residentTerm(residentLayers: number, layers: number, bytes: number): PlanTerm {
  return {
    tier: 'dram',
    name: 'resident layers',
    bytes,
    reason: `${residentLayers} of ${counted(layers, 'layer')} ${residentLayers === 1 ? 'rests' : 'rest'} in DRAM`,
  };
}

/** One more of them, for every stage of a pipeline. */
function hostBufferBytes(input: PlanInput): number {
  return input.batches * input.hostBufferBytes;
}

/** @param onlyLoads no layer streams from the drive in every pass */
export function hostBufferTerm(input: PlanInput, window: number, onlyLoads: boolean): PlanTerm {
  const stages = input.batches > 1 ? ` for each of ${input.batches} stages` : '';
  const use = onlyLoads
    ? 'layers pass through them once, on their way to rest on the device'
    : 'one computes, the others fill';
  return {
    tier: 'dram',
    name: 'host buffers',
    bytes: window * hostBufferBytes(input),
    reason: `${counted(window, 'buffer')} of the largest layer, ${formatBytes(input.hostBufferBytes)}${stages}: ${use}`,
  };
}
