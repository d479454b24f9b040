// How much an engine is to hold at once: what the program says, or as much as memory holds without weights giving way.

import { OperatingError, type Plan, present, type Workload } from '../../offload/index.js';
import { MOST_BIASES } from '../engine/added-logits.js';
import { MOST_TOP_LOG_PROBS } from './generate-options.js';
import type { OpenSettings } from './open-options.js';
import { badOption } from './option-check.js';

/** What is tried where a program does not say it, in that order. More texts at once share each read of a layer. */
const CONTEXTS = { generate: [4096, 2048, 1024, 512], score: [2048, 1024, 512] };
const SEQUENCES = { generate: [16, 8, 4, 2, 1], score: [8, 4, 2, 1] };
/** Most texts are shorter than they may be, so there is room for so many that are not. */
const LONGEST_TEXTS = [4, 3, 2];

/** Any text may ask for penalties, biases and the likeliest tokens. */
export const ROOM_FOR_WISHES = {
  history: true,
  addedTokens: MOST_BIASES,
  topLogProbs: MOST_TOP_LOG_PROBS,
} as const;

type Limits = Pick<OpenSettings, 'task' | 'maxSequences' | 'contextTokens' | 'cacheTokens'>;
type Planner = (workload: Workload) => Plan;

/** Throws BAD_OPTION, or what `planFor` throws. @param planFor throws DOES_NOT_FIT for too much */
export function workloadFor(limits: Limits, mostContext: number | undefined, planFor: Planner): Workload {
  const { task, maxSequences, cacheTokens } = limits;
  const contexts = contextsFor(limits, mostContext);
  const sequences = maxSequences === undefined ? SEQUENCES[task] : [maxSequences];
  const candidates = contexts.flatMap((context) =>
    sequences.map((count) =>
      task === 'score' ? scoring(count, context) : generating(count, context, cacheTokens ?? context),
    ),
  );
  const least = firstThatFits(candidates, planFor);
  if (task === 'score' || cacheTokens !== undefined) return least;
  const context = least.contextTokens;
  const more = LONGEST_TEXTS.map((texts) => generating(least.sequences, context, texts * context));
  return withMoreCached(least, more, planFor);
}

function generating(sequences: number, context: number, cached: number): Workload {
  return {
    sequences,
    cachedTokens: Math.min(cached, sequences * context),
    contextTokens: context,
    promptTokens: context,
    output: 'tokens',
    ...ROOM_FOR_WISHES,
  };
}

function scoring(sequences: number, context: number): Workload {
  return { sequences, contextTokens: context, promptTokens: sequences * context, output: 'nll' };
}

function contextsFor({ task, contextTokens, cacheTokens }: Limits, most: number | undefined): number[] {
  if (contextTokens !== undefined && most !== undefined && contextTokens > most) {
    throw badOption(`contextTokens is ${contextTokens}, but the model has a context of ${most}: lower it`);
  }
  if (contextTokens === undefined) {
    const limit = Math.min(most ?? Number.POSITIVE_INFINITY, cacheTokens ?? Number.POSITIVE_INFINITY);
    return [...new Set(CONTEXTS[task].map((context) => Math.min(context, limit)))];
  }
  if (cacheTokens === undefined || cacheTokens >= contextTokens) return [contextTokens];
  throw badOption(
    `cacheTokens is ${cacheTokens}, but one text may have ${contextTokens}: raise it, or lower contextTokens`,
  );
}

/** The last one's refusal says what is missing. */
function firstThatFits(candidates: readonly Workload[], planFor: Planner): Workload {
  const last = present(candidates.at(-1), 'workload');
  return candidates.slice(0, -1).find((candidate) => fits(candidate, planFor)) ?? last;
}

/** The first of `more` for which everything rests where it does for the least. */
function withMoreCached(least: Workload, more: readonly Workload[], planFor: Planner): Workload {
  const places = placesOf(planFor(least));
  return more.find((workload) => fits(workload, planFor) && placesOf(planFor(workload)) === places) ?? least;
}

function fits(workload: Workload, planFor: Planner): boolean {
  try {
    planFor(workload);
    return true;
  } catch (error) {
    if (error instanceof OperatingError && error.code === 'DOES_NOT_FIT') return false;
    throw error;
  }
}

function placesOf({ layers, kvBuffers }: Plan): string {
  return [...layers.map(({ tier }) => tier), kvBuffers.count > 0].join();
}
