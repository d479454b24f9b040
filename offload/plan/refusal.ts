// Why nothing fits: what the smallest plan would need, part by part, and what to change.

import { OperatingError, present } from '../errors.js';
import { formatBytes } from '../units.js';
import { microBatchCandidates, mostPassTokens } from './batches.js';
import { smallestDeviceTerms } from './device-layers.js';
import { type Draft, sumOf, total } from './draft.js';
import { hostBufferTerm, windowsInDram, windowsOf } from './dram-layers.js';
import type { PlanInput } from './input.js';
import { driveSlotRefusal } from './place-drive-slots.js';
import { asksForSlots, slotRefusal } from './place-slots.js';
import type { PlanTerm } from './plan.js';
import { sizesFor } from './sizes.js';

/** @param drafts what devices could hold, all of which need more DRAM than there is */
export function refusal(input: PlanInput, drafts: readonly Draft[]): OperatingError {
  if (drafts.length > 0) return driveSlotRefusal(input, drafts) ?? dramRefusal(input, drafts);
  return asksForSlots(input) ? slotRefusal(input) : deviceRefusal(input);
}

function dramRefusal(input: PlanInput, drafts: readonly Draft[]): OperatingError {
  const { options, workload } = input;
  const needs = drafts.flatMap((draft) => {
    // Experts that come when they are chosen come from there.
    const inDram = options.offload === 'dram' || draft.slots !== undefined;
    const weightBytes = inDram ? total(draft.restBytes) : 0;
    return (inDram ? windowsInDram(input, draft) : windowsOf(input)).map((window) => {
      const buffers = window > 0 ? [hostBufferTerm(input, window, inDram)] : [];
      const terms = [...draft.terms, ...buffers];
      return { bytes: sumOf(terms, 'dram') + weightBytes, terms, weightBytes };
    });
  });
  const smallest = needs.reduce((least, other) => (least.bytes <= other.bytes ? least : other));
  const parts = partsOf(smallest.terms, 'dram');
  const smallestMiB = Math.ceil(smallest.bytes / 1024 ** 2);
  const remedies = [`give --dram_memory ${smallestMiB}MiB or more`];
  if (smallest.weightBytes > 0) parts.push(`weights ${formatBytes(smallest.weightBytes)}`);
  if (options.offload === 'dram') remedies.push('use --nvme_offload_path DIR instead of --cpu_offload');
  if (asksForSlots(input)) remedies.push('leave --expert_slots out');
  if (workload.sequences > 1) remedies.push('lower --batch_size');
  return new OperatingError(
    'DOES_NOT_FIT',
    `${options.dramBudgetName} is ${formatBytes(options.dramBudgetBytes)}, but the smallest plan needs ` +
      `${formatBytes(smallest.bytes)} (${smallestMiB} MiB): ${parts.join(', ')}; ${remedies.join(', or ')}`,
  );
}

function deviceRefusal(input: PlanInput): OperatingError {
  const { options, workload } = input;
  const microBatchTokens = present(microBatchCandidates(input).at(-1), 'a candidate');
  const passTokens = mostPassTokens(input, microBatchTokens);
  const needs = (['device', 'dram'] as const)
    .map((kv) => [
      ...sizesFor(input, { microBatchTokens, microBatchSequences: 1, passTokens, kv }).terms,
      ...smallestDeviceTerms(input),
    ])
    .sort((a, b) => sumOf(a, 'gpu') - sumOf(b, 'gpu'));
  const terms = present(needs[0], 'needs');
  const remedies = [
    isOfLayers(terms)
      ? 'take a device with more memory, or weights in fewer bits (--dtype int8 or int4 packs plain ones)'
      : workload.sequences > 1
        ? 'lower --batch_size, or shorten prompts'
        : 'shorten the prompt',
  ];
  if (options.deviceResident) remedies.push('lower --gpu_resident');
  return new OperatingError(
    'DOES_NOT_FIT',
    `${options.deviceBudgetName ?? 'the memory of a device'} is ${formatBytes(options.deviceBudgetBytes ?? 0)}, but the smallest plan needs ` +
      `${formatBytes(sumOf(terms, 'gpu'))} of it: ${partsOf(terms, 'gpu').join(', ')}; ${remedies.join(', or ')}`,
  );
}

/** Most of what is needed is two of the largest layer, whatever the prompts are. */
function isOfLayers(terms: readonly PlanTerm[]): boolean {
  const layers = terms.filter(({ name }) => name === 'layer buffers');
  return 2 * sumOf(layers, 'gpu') > sumOf(terms, 'gpu');
}

function partsOf(terms: readonly PlanTerm[], tier: PlanTerm['tier']): string[] {
  return terms
    .filter((term) => term.tier === tier && term.bytes > 0)
    .map((term) => `${term.name} ${formatBytes(term.bytes)}`);
}
