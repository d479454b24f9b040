// How much an engine is to hold at once: what the program says, or as much as memory holds without weights giving way.

import type { Plan, Workload } from '../../offload/index.js';
import { findAutoBatch } from '../engine/largest-batch.js';
import type { OpenSettings } from './open-options.js';
import { badOption } from './option-check.js';

const DEFAULT_CONTEXT = { generate: 4096, score: 2048 };
const DEFAULT_SEQUENCES = 16;
/** Most texts are shorter than they may be, so there is room for so many that are not. */
const LONGEST_TEXTS = 4;

type Limits = Pick<OpenSettings, 'task' | 'maxSequences' | 'contextTokens' | 'cacheTokens'>;

/** Throws BAD_OPTION, or what `planFor` throws. @param planFor throws DOES_NOT_FIT for too much */
export function workloadFor(
  { task, maxSequences, contextTokens, cacheTokens }: Limits,
  modelContextTokens: number | undefined,
  planFor: (workload: Workload) => Plan,
): Workload {
  const context = contextFor(
    contextTokens ?? DEFAULT_CONTEXT[task],
    contextTokens !== undefined,
    modelContextTokens,
  );
  if (cacheTokens !== undefined && cacheTokens < context) {
    throw badOption(
      `cacheTokens is ${cacheTokens}, but one text may have ${context}: raise it, or lower contextTokens`,
    );
  }
  const workload = (sequences: number): Workload => ({
    sequences,
    cachedTokens: Math.min(cacheTokens ?? LONGEST_TEXTS * context, sequences * context),
    contextTokens: context,
    promptTokens: task === 'score' ? sequences * context : context,
    output: task === 'score' ? 'nll' : 'tokens',
    // Any text may ask for a repetition penalty.
    history: task === 'generate',
  });
  if (maxSequences !== undefined) return workload(maxSequences);
  return workload(findAutoBatch((sequences) => planFor(workload(sequences)), DEFAULT_SEQUENCES).sequences);
}

function contextFor(wanted: number, isGiven: boolean, most: number | undefined): number {
  if (most === undefined || wanted <= most) return wanted;
  if (!isGiven) return most;
  throw badOption(`contextTokens is ${wanted}, but the model has a context of ${most}: lower it`);
}
