// What a pass yields for one device: copied to the host, waited for, and read.

import type { PassPlaces } from '../model/forward-places.js';
import type { Plan } from '../plan/plan.js';
import { reached } from '../port/device-failure.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type { Tensor } from '../port/ops.js';
import { dimension } from '../port/tensor.js';
import type { DeviceState } from './device-state.js';
import { copyLogProbs, LOG_PROB_BYTES, nllOf, readLogProbs } from './log-probs.js';
import { type DeviceWork, outputCount, type Running } from './running.js';
import { copyTop, readTop, type TopLogProbs } from './top-log-probs.js';
import { copyPlaces, readPlaces } from './watch.js';

/** In the order of the micro-batches' outputs. */
export interface PassResult {
  /** Output `tokens`: the likeliest, or the drawn, next token per output. */
  readonly tokens: Int32Array;
  /** Output `nll`: negative log-likelihood of the target per output. */
  readonly nll: Float64Array;
  /** What that was made of: sums over the columns that the device has. */
  readonly folded?: Float32Array;
  /**
   * Output `tokens`: natural logarithm of the probability that the model's own logits, whatever the sampling, give the
   * token, per output; NaN where there is no token or its micro-batch does not ask. Empty where none of the pass does.
   */
  readonly logProbs: Float64Array;
  /** The likeliest tokens in place of each output whose micro-batch asks for them; absent where none does. */
  readonly top?: readonly TopLogProbs[];
  /** Output `logits`: [R, V] row by row. */
  readonly logits: Float32Array;
  /** Where its hidden state was not finite for the first time; undefined for a pass that is not watched. */
  readonly places?: PassPlaces;
}

const EMPTY_IDS = new Int32Array(0);
const EMPTY_FLOATS = new Float32Array(0);
const EMPTY_DOUBLES = new Float64Array(0);

/**
 * Waits for the device. Rejects with an OperatingError when it failed.
 * @param isOdd the tokens go where those of the pass before do not lie, which nobody may have read yet
 */
export async function readResults(
  { plan, state }: DeviceWork,
  running: readonly Running[],
  isOdd: boolean,
): Promise<PassResult> {
  const from = resultOf(plan, state);
  const perRow = from.shape.length === 1 ? 1 : dimension(from, 1);
  const outputs = outputCount(running);
  const count = outputs * perRow;
  const { compute } = state.device;
  const firstByte = isOdd ? state.tokensAheadOffset : 0;
  if (count > 0) compute.copy(state.results, firstByte, from.memory, 0, count * DTYPE_BYTES[from.dtype]);
  // Behind the tokens.
  const logProbsOffset = outputs * DTYPE_BYTES.i32;
  copyLogProbs(state, running, logProbsOffset);
  const topOffset = logProbsOffset + outputs * LOG_PROB_BYTES;
  copyTop(state, running, topOffset);
  copyPlaces(state, running);
  await reached(compute.record(), true);
  const { buffer, byteOffset } = state.results.bytes;
  const places = readPlaces(state, running);
  const nothing = {
    tokens: EMPTY_IDS,
    logits: EMPTY_FLOATS,
    nll: EMPTY_DOUBLES,
    logProbs: EMPTY_DOUBLES,
    ...(places && { places }),
  };
  if (plan.nll) {
    const folded = new Float32Array(buffer, byteOffset, count);
    return { ...nothing, nll: nllOf(folded), folded };
  }
  if (plan.readLogits) return { ...nothing, logits: new Float32Array(buffer, byteOffset, count).slice() };
  const tokens = new Int32Array(buffer, byteOffset + firstByte, count).slice();
  const logProbs = readLogProbs(state, running, logProbsOffset);
  const top = readTop(state, running, { topOffset, logProbsOffset });
  return { ...nothing, tokens, logProbs, ...(top && { top }) };
}

function resultOf(plan: Plan, { nllState, logits, ids }: DeviceState): Tensor {
  if (plan.nll) return nllState;
  return plan.readLogits ? logits : ids;
}
