// All but the experts of mixtures on every device, and as many slots for experts as fit beside; or why there are not as many as asked for.

import { OperatingError, present } from '../errors.js';
import { MAIL_WORDS } from '../port/host-ops.js';
import { counted, formatBytes } from '../units.js';
import { batchesFor, microBatchCandidates } from './batches.js';
import { allocatedBytes } from './device-costs.js';
import { bufferTerm, restOf, streamBuffers } from './device-layers.js';
import { type Draft, sumOf } from './draft.js';
import type { PlanInput } from './input.js';
import type { BufferPlan, PlannedExperts, PlanTerm, Sizes, SlotPlan } from './plan.js';
import { sizesFor } from './sizes.js';
import { choicesOf, hostShare, mostChoosingTokens, slotWords, totalWords } from './slots.js';
import { spreadOf } from './spread.js';

/** Undefined where that cannot be, or is not wanted. */
export function placeSlots(input: PlanInput, sizes: Sizes): Draft | undefined {
  const { options } = input;
  // Whoever wants all layers in DRAM has asked for them to stream.
  const wanted = options.expertSlots ?? (options.offload === 'auto' ? 'auto' : 0);
  const isKnown = options.deviceBudgetBytes !== undefined || wanted !== 'auto';
  if (wanted === 0 || !isKnown || options.computesInPlace || !isOpen(input)) return undefined;
  const { experts } = input;
  const room = roomFor(input, sizes);
  const count = wanted === 'auto' ? room.most : Math.min(room.keys, wanted);
  const mostTokens = tokensOf(input, count);
  if (count > room.most || mostTokens < 1) return undefined;
  const { keys, bytes, deviceBuffers } = room;
  const host = hostShare(input.model, { mostTokens }, options.cpuCompute ?? 'auto');
  const slots: SlotPlan = { count, bytes, keys, choices: choicesOf(input.model), mostTokens, host };
  const onDevices = experts.map((one) => one === undefined);
  const restBytes = restOf(input, onDevices);
  const { resident: inDram } = spreadOf(restBytes, 0);
  const terms = [...room.terms, ...slotTerms(input, slots), ...hostTerms(input, slots)];
  return { sizes, onDevices, deviceBuffers, slots, restBytes, inDram, hostWindowLayers: 0, terms };
}

/** Whoever asks for slots gets as many, or hears why not. */
export function asksForSlots({ options }: PlanInput): boolean {
  return typeof options.expertSlots === 'number' && options.expertSlots > 0;
}

/** Throws BAD_OPTION for slots that this model, device or placement cannot have, however much memory there is. */
export function checkSlots(input: PlanInput): void {
  const { options, model } = input;
  if (!asksForSlots(input)) return;
  const bad = (why: string) =>
    new OperatingError('BAD_OPTION', `--expert_slots is ${options.expertSlots}, but ${why}`);
  if (mixturesOf(input).length === 0)
    throw bad('no layer of this model has experts that could come one by one: leave it out');
  if (options.computesInPlace && options.offload === 'dram')
    throw bad('the CPU computes on DRAM, where all layers are to rest whole: leave one of both out');
  if (!isOpen(input))
    throw bad('it is said as well which layers rest on the device (--gpu_resident): leave one of both out');
  if (tokensOf(input, Math.min(keysOf(input), Number(options.expertSlots))) < 1)
    throw bad(`a token goes to ${choicesOf(model)} experts of a layer: give ${choicesOf(model)} or more`);
}

/** Counts with the smallest batch, which leaves most room. */
export function slotRefusal(input: PlanInput): OperatingError {
  const { options } = input;
  const rooms = batchesFor(input, microBatchCandidates(input)).map((batch) =>
    roomFor(input, sizesFor(input, batch)),
  );
  const most = rooms.reduce((best, other) => (other.most > best.most ? other : best));
  const least = choicesOf(input.model);
  const fits = tokensOf(input, most.most) >= 1;
  const remedy = fits
    ? `give --expert_slots ${most.most} or fewer`
    : `leave it out, since a token goes to ${least} experts, or take a device with more memory`;
  return new OperatingError(
    'DOES_NOT_FIT',
    `${options.deviceBudgetName ?? 'the memory of a device'} is ${formatBytes(options.deviceBudgetBytes ?? 0)}, which has room for ` +
      `${counted(most.most, 'expert slot')} of ${formatBytes(most.bytes)} beside ${formatBytes(sumOf(most.terms, 'gpu'))} of all else, ` +
      `but --expert_slots is ${options.expertSlots}; ${remedy}`,
  );
}

/** Where layers rest is left to the planner, and whence experts come may hold them. */
export function isOpen(input: PlanInput): boolean {
  const { offload, deviceResident = 'auto', computesInPlace } = input.options;
  if (mixturesOf(input).length === 0) return false;
  return computesInPlace ? offload !== 'dram' : deviceResident === 'auto';
}

interface Room {
  /** Experts of all layers. */
  readonly keys: number;
  readonly bytes: number;
  /** Slots that fit, at most one for each expert. */
  readonly most: number;
  readonly deviceBuffers: BufferPlan;
  /** All but slots and their tables. */
  readonly terms: readonly PlanTerm[];
}

function roomFor(input: PlanInput, sizes: Sizes): Room {
  const { options } = input;
  const [bytes, keys] = [slotBytes(input), keysOf(input)];
  const deviceBuffers = present(streamBuffers(input, true)[0], 'buffers');
  const terms = [...sizes.terms, baseTerm(input), bufferTerm(deviceBuffers)];
  const free = (options.deviceBudgetBytes ?? Number.POSITIVE_INFINITY) - sumOf(terms, 'gpu');
  return { keys, bytes, most: slotsWithin(input, free, 'gpu'), deviceBuffers, terms };
}

/** Slots that fit with their tables, at most one for each expert. */
export function slotsWithin(input: PlanInput, freeBytes: number, tier: PlanTerm['tier']): number {
  const [bytes, keys] = [slotBytes(input), keysOf(input)];
  let most = Math.max(0, Math.min(keys, Math.floor(freeBytes / bytes)));
  while (most > 0 && sumOf(slotTerms(input, { count: most, keys, bytes }), tier) > freeBytes) most--;
  return most;
}

export function slotBytes(input: PlanInput): number {
  return mixturesOf(input).reduce((most, one) => Math.max(most, one.slotBytes), 0);
}

/** Experts of the largest mixture. */
export function mostExperts(input: PlanInput): number {
  return mixturesOf(input).reduce((most, { count }) => Math.max(most, count), 0);
}

export function mixturesOf({ experts }: PlanInput): PlannedExperts[] {
  return experts.filter((one) => one !== undefined);
}

export function keysOf(input: PlanInput): number {
  return mixturesOf(input).reduce((sum, { count }) => sum + count, 0);
}

/** Tokens whose choices so many slots hold. */
function tokensOf(input: PlanInput, count: number): number {
  return mostChoosingTokens(count, choicesOf(input.model), mostExperts(input));
}

/** Layers without experts, and what the others have beside these. */
function baseTerm({ options, experts, deviceLayerBytes }: PlanInput): PlanTerm {
  let [whole, bytes] = [0, 0];
  experts.forEach((one, index) => {
    if (!one) whole++;
    bytes += one ? allocatedBytes(options, one.base.sizeBytes) : (deviceLayerBytes[index] ?? 0);
  });
  const mixtures = counted(experts.length - whole, 'layer');
  const reason = `${counted(whole, 'layer')} whole, and all but the experts of ${mixtures}, rest on each device`;
  return { tier: 'gpu', name: 'resident layers', bytes, reason };
}

/** The slots, and two copies of their tables: where kernels use them, and where they are made and read. */
export function slotTerms(
  input: PlanInput,
  { count, bytes, keys }: Pick<SlotPlan, 'count' | 'bytes' | 'keys'>,
): PlanTerm[] {
  const { options } = input;
  const tableBytes =
    4 * totalWords(slotWords({ count, keys, choices: choicesOf(input.model) }, mixturesOf(input)));
  const tables = { name: 'slot tables', reason: 'which expert lies where, and where each comes from' };
  const reason = `${counted(count, 'slot')} of ${formatBytes(bytes)} for ${keys} experts of all layers, which come when they are chosen`;
  if (options.computesInPlace) {
    const inDram = (each: number) => ({ tier: 'dram' as const, bytes: options.deviceCount * each });
    return [
      { ...tables, ...inDram(2 * tableBytes) },
      { name: 'expert slots', reason, ...inDram(count * bytes) },
    ];
  }
  return [
    { tier: 'gpu', ...tables, bytes: allocatedBytes(options, tableBytes) },
    { tier: 'dram', ...tables, bytes: options.deviceCount * tableBytes },
    { tier: 'gpu', name: 'expert slots', bytes: allocatedBytes(options, count * bytes), reason },
  ];
}

const HOST_TERM = 'host’s part';

export function withoutHost(terms: readonly PlanTerm[]): PlanTerm[] {
  return terms.filter(({ name }) => name !== HOST_TERM);
}

/** What the host computes with. */
function hostTerms({ options }: PlanInput, { host }: SlotPlan): PlanTerm[] {
  if (!host) return [];
  const bytes = options.deviceCount * (host.workspaceBytes + 4 * MAIL_WORDS);
  const reason = `what the CPU computes of up to ${host.mostTokens} tokens beside each device, and their mailboxes`;
  return [{ tier: 'dram', name: HOST_TERM, bytes, reason }];
}
