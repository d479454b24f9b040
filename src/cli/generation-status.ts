// How far a generation is, in a few words for the status line.

import { formatBytes, formatRate } from '../../offload/index.js';
import type { PassProgress } from '../generate.js';
import type { Meter } from '../meter.js';

export interface GenerationStatus {
  onPass(pass: PassProgress): void;
  /** Bound, so that it can be passed on. */
  readonly describe: () => string;
}

export function generationStatus(meter: Meter, totalPrompts: number): GenerationStatus {
  const startMs = performance.now();
  const startBytes = meter.streamedBytes;
  let last: PassProgress | undefined;
  let passes = 0;
  return {
    onPass: (pass) => {
      last = pass;
      passes++;
    },
    describe: () => {
      // Before the first result, the prompts are on their way through the layers.
      const phase = last?.phase === 'decode' ? 'generating' : 'prefill';
      const bytes = meter.streamedBytes - startBytes;
      const rate = formatRate(bytes / ((performance.now() - startMs) / 1e3));
      const finished = `${last?.finishedPrompts ?? 0} of ${totalPrompts} prompts`;
      return `${phase}: pass ${passes + 1}, ${formatBytes(bytes)} read (${rate}), ${finished} finished`;
    },
  };
}
