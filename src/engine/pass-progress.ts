// What a pass was, and how far it brought everybody's work.

import type { DeviceWork } from './pass-work.js';
import type { Sequence } from './sequence.js';

export interface PassProgress {
  /** `mixed`: prompts of newcomers beside new tokens of others. */
  readonly phase: 'prefill' | 'decode' | 'mixed';
  readonly tokens: number;
  /** How often each layer's weights were read by compute, on all devices together. */
  readonly microBatches: number;
  /** With tokens in this pass, on all devices together, */
  readonly sequences: number;
  /** of so many that could have had some. */
  readonly capacity: number;
  /** Requests that nobody had begun when the pass was made. */
  readonly waitingPrompts: number;
  readonly finishedPrompts: number;
  readonly totalPrompts: number;
  /** The share of all requests that is done; those under way count as if each became as long as it may. */
  readonly doneShare: number;
}

export interface JobState {
  readonly alive: readonly Sequence[];
  readonly capacity: number;
  readonly waitingPrompts: number;
  readonly finishedPrompts: number;
  readonly totalPrompts: number;
}

export function passProgress(
  works: readonly DeviceWork[],
  phase: PassProgress['phase'],
  { alive, ...state }: JobState,
): PassProgress {
  const underWay = sum(alive.map(({ newTokens, wanted }) => newTokens.length / (wanted.maxNewTokens || 1)));
  return {
    ...state,
    phase,
    tokens: sum(works.flatMap(({ work }) => work.map(({ slice }) => slice.tokens.length))),
    microBatches: sum(works.map(({ microBatches }) => microBatches.length)),
    sequences: sum(works.map(({ work }) => new Set(work.map(({ sequence }) => sequence)).size)),
    doneShare: (state.finishedPrompts + underWay) / state.totalPrompts,
  };
}

/** To be asked before the pass's tokens are entered. */
export function phaseOf(works: readonly DeviceWork[]): PassProgress['phase'] {
  const work = works.flatMap((one) => one.work);
  const goesOn = ({ sequence }: { readonly sequence: Sequence }) => sequence.newTokens.length > 0;
  if (work.every(goesOn)) return 'decode';
  return work.some(goesOn) ? 'mixed' : 'prefill';
}

export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
