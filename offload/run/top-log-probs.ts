// The likeliest tokens in place of those of a pass, and how likely the model's own logits make them.

import { LIKELIHOOD_WORDS } from '../plan/pass-sizes.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type { Tensor } from '../port/ops.js';
import { columns, dimension, rows } from '../port/tensor.js';
import type { DeviceState } from './device-state.js';
import { logTotal } from './log-probs.js';
import { outputCount, type Running } from './running.js';

/** The likeliest tokens first, of equally likely ones the lower, with the natural logarithms of their probabilities. */
export interface TopLogProbs {
  readonly tokens: Int32Array;
  readonly logProbs: Float64Array;
}

/** Takes so many of each row of logits [R, V], which drawing has left as they were. */
export function queueTop({ device, top }: DeviceState, logits: Tensor, count: number, first: number): void {
  if (!top) return;
  const own = (all: Tensor) => columns(rows(all, first, dimension(logits, 0)), 0, count);
  device.compute.launch({ op: 'top_tokens', tokens: own(top.tokens), values: own(top.values), logits });
}

/** Queues the copies of the tokens, and behind them of their logits, to `offsetBytes` of the results. */
export function copyTop(
  { device, results, top }: DeviceState,
  running: readonly Running[],
  offsetBytes: number,
): void {
  if (!top) return;
  const rowBytes = dimension(top.tokens, 1) * DTYPE_BYTES.i32;
  const allBytes = outputCount(running) * rowBytes;
  for (const { microBatch, firstOutput } of running) {
    const sizeBytes = microBatch.outputs.length * rowBytes;
    if (!microBatch.topLogProbs || sizeBytes === 0) continue;
    const offset = firstOutput * rowBytes;
    device.compute.copy(results, offsetBytes + offset, top.tokens.memory, offset, sizeBytes);
    device.compute.copy(results, offsetBytes + allBytes + offset, top.values.memory, offset, sizeBytes);
  }
}

interface Places {
  readonly topOffset: number;
  readonly logProbsOffset: number;
}

const NONE: TopLogProbs = { tokens: new Int32Array(0), logProbs: new Float64Array(0) };

/** Per output of the pass, nothing for those of micro-batches that do not ask; undefined where none does. */
export function readTop(
  { results, top }: DeviceState,
  running: readonly Running[],
  { topOffset, logProbsOffset }: Places,
): TopLogProbs[] | undefined {
  if (!top || !running.some(({ microBatch }) => microBatch.topLogProbs)) return undefined;
  const [width, outputs] = [dimension(top.tokens, 1), outputCount(running)];
  const { buffer, byteOffset } = results.bytes;
  const tokens = new Int32Array(buffer, byteOffset + topOffset, outputs * width);
  const logits = new Float32Array(buffer, tokens.byteOffset + tokens.byteLength, outputs * width);
  const sums = new Float32Array(buffer, byteOffset + logProbsOffset, outputs * LIKELIHOOD_WORDS);
  return running.flatMap(({ microBatch, firstOutput }) =>
    Array.from(microBatch.outputs, (_, index) => {
      const count = microBatch.topLogProbs ?? 0;
      if (count === 0) return NONE;
      const row = firstOutput + index;
      const shift = logTotal(sums.subarray(row * LIKELIHOOD_WORDS));
      const first = row * width;
      return {
        tokens: tokens.slice(first, first + count),
        logProbs: Float64Array.from(logits.subarray(first, first + count), (logit) => logit - shift),
      };
    }),
  );
}
