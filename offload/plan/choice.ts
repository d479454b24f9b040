// Chooses how much is computed together and which tier each layer rests in, or refuses with the numbers.

import { batchesFor, microBatchCandidates } from './batches.js';
import { placeOnDevices } from './device-layers.js';
import type { Draft } from './draft.js';
import { allInDram, partlyOnDrive, windowsOf } from './dram-layers.js';
import type { PlanInput } from './input.js';
import { placeDramSlots } from './place-dram-slots.js';
import { placeDriveSlots } from './place-drive-slots.js';
import { asksForSlots, checkSlots, placeSlots } from './place-slots.js';
import { placeInStages } from './place-stages.js';
import { jobMs } from './price.js';
import { refusal } from './refusal.js';
import { sizesFor } from './sizes.js';
import { pipelineMs } from './stage-price.js';

/** Below this, prefill reads weights from memory so often that streaming a few layers is the better choice. */
const SMALLEST_USEFUL_TOKENS = 64;
/** On a device, where products of fewer tokens take about the time of this many, what they save is not worth weighing. */
const SMALLEST_WEIGHED_TOKENS = 256;

/** A draft that was weighed: `Plan.jobMs`. */
interface Priced {
  readonly draft: Draft;
  readonly jobMs: number;
}

/**
 * In place, the largest micro-batch with which the working memory and two host buffers fit; then one buffer. On devices,
 * of all that fit what takes the job least time. What is left of DRAM holds layers (or, with everything on the drive,
 * more buffers). Devices come first: what rests there needs no DRAM.
 */
export function choosePlaces(input: PlanInput): Priced {
  checkSlots(input);
  const tokens = microBatchCandidates(input);
  const large = tokens.filter((count) => count >= SMALLEST_WEIGHED_TOKENS);
  const choose = input.options.computesInPlace ? firstInPlace : fastest;
  for (const some of input.options.computesInPlace ? [tokens] : [large, tokens]) {
    const found = choose(input, draftsFor(input, some));
    if (found) return found;
  }
  throw refusal(input, draftsFor(input, tokens));
}

/** What devices can hold, with micro-batches of so many tokens, in that order. */
function draftsFor(input: PlanInput, tokens: readonly number[]): Draft[] {
  return batchesFor(input, tokens).flatMap((batch) => {
    const sizes = sizesFor(input, batch);
    if (input.options.pipeline) return placeInStages(input, sizes) ?? [];
    const inSlots = placeSlots(input, sizes);
    // In place, experts in slots are weighed against whole layers once it is known what DRAM holds of these.
    const leavesWhole = asksForSlots(input) && !input.options.computesInPlace;
    const others = leavesWhole ? [] : placeOnDevices(input, sizes);
    return inSlots ? [...others, inSlots] : others;
  });
}

function firstInPlace(input: PlanInput, drafts: readonly Draft[]): Priced | undefined {
  const { options } = input;
  const most = drafts[0]?.sizes.microBatchTokens ?? 1;
  const worthwhile = options.offload === 'dram' ? 1 : Math.min(SMALLEST_USEFUL_TOKENS, most);
  if (!asksForSlots(input)) {
    for (const draft of drafts) {
      const found = draft.sizes.microBatchTokens < worthwhile ? undefined : allInDram(input, draft);
      if (found) return priced(input, found);
    }
  }
  const inSlots = cheapest(
    input,
    drafts.map((draft) => placeDriveSlots(input, draft)),
  );
  const whole = asksForSlots(input) ? undefined : firstOnDrive(input, drafts);
  return whole && !(inSlots && inSlots.jobMs < whole.jobMs) ? whole : inSlots;
}

function firstOnDrive(input: PlanInput, drafts: readonly Draft[]): Priced | undefined {
  for (const window of windowsOf(input)) {
    for (const draft of drafts) {
      const found = partlyOnDrive(input, draft, window);
      if (found) return priced(input, found);
    }
  }
  return undefined;
}

/** The one whose job takes least time; the first of equals. */
function fastest(input: PlanInput, drafts: readonly Draft[]): Priced | undefined {
  const windows = windowsOf(input);
  const placed = drafts.map((draft) => {
    const all = allInDram(input, draft);
    if (draft.slots) return all ?? placeDramSlots(input, draft);
    return (
      all ??
      windows.reduce<Draft | undefined>(
        (before, window) => before ?? partlyOnDrive(input, draft, window),
        undefined,
      )
    );
  });
  return cheapest(input, placed);
}

function cheapest(input: PlanInput, drafts: readonly (Draft | undefined)[]): Priced | undefined {
  let best: Priced | undefined;
  for (const draft of drafts) {
    if (!draft) continue;
    const other = priced(input, draft);
    if (!best || other.jobMs < best.jobMs) best = other;
  }
  return best;
}

function priced(input: PlanInput, draft: Draft): Priced {
  return { draft, jobMs: draft.stages ? pipelineMs(input, draft) : jobMs(input, draft) };
}
