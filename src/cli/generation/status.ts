// How far a generation is, in a few words: texts done, rate, and how long the rest may take.

import { counted } from '../../../offload/index.js';
import type { PassProgress } from '../../engine/scheduler.js';

export interface GenerationStatus {
  /** For every new token. */
  onToken(): void;
  onPass(pass: PassProgress): void;
  /** Bound, so that it can be passed on. */
  readonly describe: () => string;
}

/**
 * @param totalTexts that are to be made
 * @param doneBefore texts that an earlier run has made
 * @param nowMs the clock
 */
export function generationStatus(
  totalTexts: number,
  doneBefore: number,
  nowMs: () => number = () => performance.now(),
): GenerationStatus {
  const startMs = nowMs();
  let last: PassProgress | undefined;
  let [passes, tokens] = [0, 0];
  return {
    onToken: () => {
      tokens++;
    },
    onPass: (pass) => {
      last = pass;
      passes++;
    },
    describe: () => {
      const seconds = (nowMs() - startMs) / 1e3;
      const done = `${doneBefore + (last?.finishedPrompts ?? 0)} of ${counted(doneBefore + totalTexts, 'text')}`;
      // Before the first token, the prompts are on their way through the layers.
      if (tokens === 0) return `prefill: pass ${passes + 1}, ${done}`;
      const share = last?.doneShare ?? 0;
      const left = share > 0 ? `, about ${formatDuration(seconds / share - seconds)} left` : '';
      return `${done}, pass ${passes + 1}, ${(tokens / Math.max(seconds, 1e-3)).toFixed(1)} tokens/s${left}`;
    },
  };
}

const MINUTE = 60;
const HOUR = 60 * MINUTE;

/** As exact as an estimate deserves: `40 s`, `12 min`, `3 h 20 min`. */
export function formatDuration(seconds: number): string {
  if (seconds < 2 * MINUTE) return `${Math.ceil(seconds)} s`;
  if (seconds < 2 * HOUR) return `${Math.round(seconds / MINUTE)} min`;
  const minutes = Math.round(seconds / MINUTE / 10) * 10;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
