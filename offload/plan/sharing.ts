// Devices that compute a pass together, each with its slices of the blocks: how layers reach them, and what they sum through.

import type { ModelSpec } from '../model/model.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import { MiB } from '../units.js';
import type { Transfer } from './transfer.js';

/** Larger sums go in rounds of this, each of which takes a few microseconds beside the copies. */
const MOST_EXCHANGE_BYTES = 16 * MiB;

/** Room for one device's summand of one round; undefined where each device computes alone. */
export function roundBytes(
  { shares, hiddenSize }: ModelSpec,
  workload: { readonly promptTokens: number; readonly sequences: number },
): number | undefined {
  if (!shares) return undefined;
  const tokens = Math.max(1, workload.promptTokens, workload.sequences);
  return Math.min(MOST_EXCHANGE_BYTES, tokens * hiddenSize * DTYPE_BYTES.f32);
}

export function slicesTransfer(devices: number): Transfer {
  return {
    kind: 'slices',
    by: 'none',
    reason: `each of ${devices} devices pulls its own slices of a layer over its own link, and they sum what each computes`,
    deviceBytes: 0,
  };
}
