// The log-probabilities that the model's own logits give the tokens of a pass, for micro-batches that ask.

import { LIKELIHOOD_WORDS } from '../plan/pass-sizes.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type { Tensor } from '../port/ops.js';
import { rows } from '../port/tensor.js';
import type { DeviceState } from './device-state.js';
import type { Running } from './running.js';

/** What an output's sums take among the results. */
export const LOG_PROB_BYTES = LIKELIHOOD_WORDS * DTYPE_BYTES.f32;

/** Folds a micro-batch's logits [R, V], which drawing has left as they were. @param ids [R] whose log-probabilities are wanted */
export function queueLogProbs(
  { ops, nllState }: DeviceState,
  logits: Tensor,
  ids: Tensor,
  first: number,
): void {
  ops.nllFold(rows(nllState, first, ids.shape[0] ?? 0), logits, ids, {
    firstColumn: 0,
    first: true,
  });
}

/** Queues their copy to the host, to `offsetBytes` of the results. */
export function copyLogProbs(
  { device, results, nllState }: DeviceState,
  running: readonly Running[],
  offsetBytes: number,
): void {
  for (const { microBatch, firstOutput } of running) {
    const sizeBytes = microBatch.outputs.length * LOG_PROB_BYTES;
    if (!microBatch.logProbs || sizeBytes === 0) continue;
    const offset = firstOutput * LOG_PROB_BYTES;
    device.compute.copy(results, offsetBytes + offset, nllState.memory, offset, sizeBytes);
  }
}

/** Per output of the pass, NaN for those of micro-batches that do not ask; empty where none does. */
export function readLogProbs(
  { results }: DeviceState,
  running: readonly Running[],
  offsetBytes: number,
): Float64Array {
  const last = running.at(-1);
  if (!last || !running.some(({ microBatch }) => microBatch.logProbs)) return new Float64Array(0);
  const outputs = last.firstOutput + last.microBatch.outputs.length;
  const logProbs = new Float64Array(outputs).fill(Number.NaN);
  const start = results.bytes.byteOffset + offsetBytes;
  for (const { microBatch, firstOutput } of running) {
    if (!microBatch.logProbs) continue;
    const length = microBatch.outputs.length * LIKELIHOOD_WORDS;
    const folded = new Float32Array(results.bytes.buffer, start + firstOutput * LOG_PROB_BYTES, length);
    logProbs.set(
      nllOf(folded).map((nll) => -nll),
      firstOutput,
    );
  }
  return logProbs;
}

/** Sums of the same rows over other columns, as one: a target lies in one of them, and counts 0 in the others. */
export function joinFolded(all: readonly Float32Array[]): Float32Array {
  const joined = new Float32Array(all[0]?.length ?? 0);
  for (let at = 0; at < joined.length; at += LIKELIHOOD_WORDS) {
    const states = all.map((one) => one.subarray(at, at + LIKELIHOOD_WORDS));
    const maximum = Math.max(...states.map(([most = 0]) => most));
    const isNone = (most: number) => most === Number.NEGATIVE_INFINITY;
    const total = states.reduce(
      (sum, [most = 0, part = 0]) => sum + (isNone(most) ? 0 : part * Math.exp(most - maximum)),
      0,
    );
    joined[at] = maximum;
    joined[at + 1] = total;
    joined[at + 2] = states.reduce((sum, [, , target = 0]) => sum + target, 0);
  }
  return joined;
}

/** log Σ exp(logit) of the first row of sums. */
export function logTotal([maximum = 0, total = 0]: Float32Array): number {
  return maximum + Math.log(total);
}

/** −log softmax of the target, per row of sums [R, 3]: maximum + log Σ exp(logit − maximum) − logit. */
export function nllOf(folded: Float32Array): Float64Array {
  return Float64Array.from({ length: folded.length / LIKELIHOOD_WORDS }, (_, row) => {
    const sums = folded.subarray(row * LIKELIHOOD_WORDS);
    return logTotal(sums) - (sums[2] ?? 0);
  });
}
