// Where devices compute in place: experts on the drive with slots for them in DRAM, and all else of their layers at rest there.

import { OperatingError, present } from '../errors.js';
import { counted, formatBytes } from '../units.js';
import { type Draft, sumOf, total } from './draft.js';
import { hostBufferTerm, windowsOf } from './dram-layers.js';
import type { PlanInput } from './input.js';
import {
  asksForSlots,
  isOpen,
  keysOf,
  mostExperts,
  slotBytes,
  slotsWithin,
  slotTerms,
} from './place-slots.js';
import type { PlanTerm, SlotPlan } from './plan.js';
import { choicesOf, mostReadingTokens } from './slots.js';

/** Undefined where that cannot be, or is not wanted. */
export function placeDriveSlots(input: PlanInput, draft: Draft): Draft | undefined {
  const { options, hostLayerBytes } = input;
  const wanted = options.expertSlots ?? (options.offload === 'auto' ? 'auto' : 0);
  if (wanted === 0 || !isOpen(input)) return undefined;
  for (const window of windowsOf(input)) {
    const room = roomFor(input, draft, window);
    const count = wanted === 'auto' ? room.most : Math.min(keysOf(input), wanted);
    const slots = slotPlan(input, count);
    if (count > room.most || slots.mostTokens < 1) continue;
    return {
      ...draft,
      slots,
      restBytes: hostLayerBytes,
      inDram: input.experts.map((one) => one === undefined),
      hostWindowLayers: window,
      terms: [...room.terms, ...slotTerms(input, slots)],
    };
  }
  return undefined;
}

/** With the batch that leaves most room, why there are not as many slots as asked for; undefined where nobody asked. */
export function driveSlotRefusal(input: PlanInput, drafts: readonly Draft[]): OperatingError | undefined {
  const { options, model } = input;
  if (!asksForSlots(input) || !options.computesInPlace) return undefined;
  const window = present(windowsOf(input).at(-1), 'a window');
  const rooms = drafts.map((draft) => roomFor(input, draft, window));
  const room = rooms.reduce((best, other) => (other.most > best.most ? other : best));
  const least = choicesOf(model);
  const remedy =
    slotPlan(input, room.most).mostTokens >= 1
      ? `give --expert_slots ${room.most} or fewer, or more DRAM`
      : `leave it out, since a token goes to ${least} experts, or give more DRAM`;
  return new OperatingError(
    'DOES_NOT_FIT',
    `${options.dramBudgetName} is ${formatBytes(options.dramBudgetBytes)}, which has room for ` +
      `${counted(room.most, 'expert slot')} of ${formatBytes(slotBytes(input))} beside ${formatBytes(sumOf(room.terms, 'dram'))} of all else, ` +
      `but --expert_slots is ${options.expertSlots}; ${remedy}`,
  );
}

function slotPlan(input: PlanInput, count: number): SlotPlan {
  const slots = { count, bytes: slotBytes(input), keys: keysOf(input), choices: choicesOf(input.model) };
  return { ...slots, mostTokens: mostReadingTokens(slots, mostExperts(input)) };
}

/** Slots that fit beside so many buffers for whole layers, at most one for each expert; and all but these. */
function roomFor(
  input: PlanInput,
  draft: Draft,
  window: number,
): { most: number; terms: readonly PlanTerm[] } {
  const { options } = input;
  const base = baseTerm(input);
  const terms = [...draft.terms, base, hostBufferTerm(input, window, false)];
  const free = Math.min(
    options.dramBudgetBytes - sumOf(terms, 'dram'),
    (options.residentBytes ?? Number.POSITIVE_INFINITY) - base.bytes,
  );
  return { most: slotsWithin(input, free, 'dram'), terms };
}

/** Layers without experts, and what the others have beside these. */
function baseTerm({ experts, hostLayerBytes }: PlanInput): PlanTerm {
  const bytes = experts.map((one, index) => one?.files?.base.sizeBytes ?? hostLayerBytes[index] ?? 0);
  const whole = experts.filter((one) => one === undefined).length;
  const mixtures = counted(experts.length - whole, 'layer');
  const reason = `${counted(whole, 'layer')} whole, and all but the experts of ${mixtures}, rest in DRAM`;
  return { tier: 'dram', name: 'resident layers', bytes: total(bytes), reason };
}
