// How far a generation is, in a few words for the status line.

import { formatBytes } from '../../offload/index.js';
import type { PassProgress } from '../generate.js';
import type { Meter } from '../meter.js';

export interface GenerationStatus {
  onPass(pass: PassProgress): void;
  /** Bound, so that it can be passed on. */
  readonly describe: () => string;
}

export function generationStatus(meter: Meter, totalPrompts: number): GenerationStatus {
  let last: PassProgress | undefined;
  const startBytes = meter.streamedBytes;
  return {
    onPass: (pass) => {
      last = pass;
    },
    describe: () => {
      // Before the first result, the prompts are on their way through the layers.
      const phase = last?.phase === 'decode' ? 'generating' : 'prefill';
      const read = formatBytes(meter.streamedBytes - startBytes);
      const finished = `${last?.finishedPrompts ?? 0} of ${totalPrompts} prompts finished`;
      return `${phase}: ${meter.passes} passes, ${read} read from the drive, ${finished}`;
    },
  };
}
