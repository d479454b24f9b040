// Experts on the drive, with slots for them on devices and in DRAM: an expert lies in one of these or on the drive alone.

import { present } from '../errors.js';
import { type ExpertFiles, expertFilesOf } from '../model/expert-files.js';
import { MAIL_WORDS } from '../port/host-ops.js';
import { counted, formatBytes } from '../units.js';
import { type Draft, sumOf } from './draft.js';
import { hostBufferTerm, windowsOf } from './dram-layers.js';
import type { PlanInput } from './input.js';
import { keysOf, mixturesOf, mostExperts, withoutHost } from './place-slots.js';
import type { DramSlotPlan, PlanTerm, SlotPlan } from './plan.js';
import { dramSlotWords, mostChoosingTokens, mostReadingTokens, totalWords } from './slots.js';

/** Undefined where that cannot be, or is not wanted. */
export function placeDramSlots(input: PlanInput, draft: Draft): Draft | undefined {
  const { options } = input;
  // Whoever wants the CPU to compute all that devices lack wants layers in DRAM.
  if (!draft.slots || options.offload === 'dram' || options.cpuCompute === 'only') return undefined;
  const { host, ...slots } = draft.slots;
  const hostBufferBytes = bufferBytesFor(input);
  for (const window of windowsOf(input)) {
    const terms = [...withoutHost(draft.terms), hostBufferTerm({ ...input, hostBufferBytes }, window, false)];
    const behind = behindOf(input, slots, terms);
    const mostTokens = tokensOf(input, slots, behind);
    if (mostTokens < 1) continue;
    return {
      ...draft,
      slots: { ...slots, mostTokens, behind },
      hostWindowLayers: window,
      terms: [...terms, ...dramSlotTerms(input, slots, behind)],
    };
  }
  return undefined;
}

/** Holds the largest layer, and what is read of each apart from its experts: in many small pieces that may be more than a small layer. */
export function bufferBytesFor(input: PlanInput): number {
  const bases = expertFiles(input).map((files) => files?.base.sizeBytes ?? 0);
  return bases.reduce((most, bytes) => Math.max(most, bytes), input.hostBufferBytes);
}

/** By layer; undefined where it has no experts. */
function expertFiles(input: PlanInput): (ExpertFiles | undefined)[] {
  return input.experts.map((experts, index) => {
    const { layout } = present(input.layers[index], 'layer');
    return experts && expertFilesOf(layout, experts);
  });
}

/** Tokens whose choices find slots on both sides; as few read so little that whole layers would take longer. */
function tokensOf(input: PlanInput, slots: SlotPlan, behind: DramSlotPlan): number {
  const experts = mostExperts(input);
  return Math.min(
    mostReadingTokens({ ...slots, behind }, experts),
    slots.mostTokens,
    mostChoosingTokens(behind.count, slots.choices, experts),
  );
}

/** As many as fit, and no more than hold all that devices do not; but a whole layer's experts may come at once. */
function behindOf(input: PlanInput, slots: SlotPlan, terms: readonly PlanTerm[]): DramSlotPlan {
  const { options } = input;
  const bytes = expertFiles(input).reduce((most, files) => Math.max(most, files?.slotBytes ?? 0), 0);
  const free = Math.min(
    options.dramBudgetBytes - sumOf(terms, 'dram'),
    options.residentBytes ?? Number.POSITIVE_INFINITY,
  );
  const useful = Math.max(keysOf(input) - slots.count, mostExperts(input));
  const wanted = Math.min(useful, options.dramSlots ?? useful);
  let count = Math.max(0, Math.min(wanted, Math.floor(free / options.deviceCount / bytes)));
  while (count > 0 && sumOf(dramSlotTerms(input, slots, { count, bytes }), 'dram') > free) count--;
  return { count, bytes };
}

function dramSlotTerms(input: PlanInput, slots: Pick<SlotPlan, 'keys'>, behind: DramSlotPlan): PlanTerm[] {
  const { deviceCount } = input.options;
  const words = MAIL_WORDS + totalWords(dramSlotWords(slots, behind, mixturesOf(input)));
  const reason =
    `${counted(behind.count, 'slot')} of ${formatBytes(behind.bytes)} for experts that lie in none of the device: read from the drive, ` +
    'or gone from there for others. The CPU computes none of them: it looks them up and reads';
  return [
    {
      tier: 'dram',
      name: 'DRAM slot tables',
      bytes: deviceCount * 4 * words,
      reason: 'what devices ask for, and who lies in which slot',
    },
    { tier: 'dram', name: 'DRAM expert slots', bytes: deviceCount * behind.count * behind.bytes, reason },
  ];
}
