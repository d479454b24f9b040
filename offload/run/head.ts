// The head of the model, piece by piece: its input once per pass, then logits and what is made of them.

import type { Weights } from '../model/model.js';
import type { PlannedLayer } from '../plan/plan.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type { Tensor } from '../port/ops.js';
import { columns, rows } from '../port/tensor.js';
import { queueLogProbs } from './log-probs.js';
import { type DeviceWork, outputCount, type Running } from './running.js';
import { queueTop } from './top-log-probs.js';
import { noteHeadInput } from './watch.js';

/** Queues a piece of the head's columns on every micro-batch: whole rows of logits, or their share of the likelihoods. */
export function queueHeadPiece(
  work: DeviceWork,
  running: readonly Running[],
  piece: PlannedLayer,
  weights: Weights,
): void {
  if (piece.index === 0) for (const one of running) queueInput(work, one);
  const outputs = outputCount(running);
  if (outputs === 0) return;
  if (work.plan.nll) foldLikelihoods(work, running, piece, weights);
  else fillLogits(work, running, piece, weights);
}

function queueInput(work: DeviceWork, running: Running): void {
  const { microBatch, control, firstToken, tokens, firstOutput } = running;
  const count = microBatch.outputs.length;
  if (count === 0) return;
  const { model, state } = work;
  const { ops } = state;
  ops.enter(undefined, undefined);
  const wanted = ops.floats([count, model.hiddenSize]);
  ops.gather(wanted, rows(state.hidden, firstToken, tokens), control.outputs);
  const input = rows(state.headRows, firstOutput, count);
  model.forward.headInput(ops, state.fixed, wanted, input);
  noteHeadInput(work, running, input);
}

/** Each micro-batch by itself, so that no more than its rows of logits are ever there. */
function foldLikelihoods(
  work: DeviceWork,
  running: readonly Running[],
  piece: PlannedLayer,
  weights: Weights,
): void {
  const { ops, logits: all, headRows, nllState } = work.state;
  const own = ownColumns(work, piece);
  // Each column counts once.
  if (!piece.isShared && work.state.rank > 0) return;
  for (const { microBatch, control, firstOutput } of running) {
    const count = microBatch.outputs.length;
    if (count === 0) continue;
    ops.enter(undefined, undefined);
    const logits = columns(rows(all, 0, count), 0, own.columns);
    queueLogits(work, weights, rows(headRows, firstOutput, count), logits);
    ops.nllFold(rows(nllState, firstOutput, count), logits, control.targets, {
      firstColumn: own.firstColumn,
      first: piece.index === 0,
    });
  }
}

/** What this device makes of a piece's columns. */
function ownColumns({ model, state }: DeviceWork, { firstColumn, columns: all, isShared }: PlannedLayer) {
  if (!isShared) return { firstColumn, columns: all };
  const each = all / (model.shares?.length ?? 1);
  return { firstColumn: firstColumn + state.rank * each, columns: each };
}

function fillLogits(
  work: DeviceWork,
  running: readonly Running[],
  piece: PlannedLayer,
  weights: Weights,
): void {
  const { model, state } = work;
  const outputs = outputCount(running);
  const own = ownColumns(work, piece);
  const logits = columns(rows(state.logits, 0, outputs), own.firstColumn, own.columns);
  queueLogits(work, weights, rows(state.headRows, 0, outputs), logits);
  const isLast = piece.firstColumn + piece.columns === model.vocabSize;
  // Where devices have some columns each, one of them draws when it has those of the others.
  if (isLast && !model.shares) queueTokens(work, running);
}

/** Queues the copies of the logits that another device has made, where its compute stream has come to the end of the head. */
export function takeLogits(work: DeviceWork, running: readonly Running[], from: DeviceWork): void {
  const { plan, state } = work;
  const outputs = outputCount(running);
  if (outputs === 0 || plan.nll) return;
  const [to, other] = [state.logits, from.state.logits];
  const strideBytes = plan.logitColumns * DTYPE_BYTES.f32;
  for (const piece of plan.layers) {
    if (piece.kind !== 'head' || !piece.isShared) continue;
    const { firstColumn, columns: count } = ownColumns(from, piece);
    const offsetBytes = firstColumn * DTYPE_BYTES.f32;
    state.device.compute.copyRows({
      to: to.memory,
      toOffsetBytes: to.offsetBytes + offsetBytes,
      toStrideBytes: strideBytes,
      from: other.memory,
      fromOffsetBytes: other.offsetBytes + offsetBytes,
      fromStrideBytes: strideBytes,
      rowBytes: count * DTYPE_BYTES.f32,
      rows: outputs,
    });
  }
}

/** Tokens of whole rows of logits, where they are wanted. */
export function queueTokens(work: DeviceWork, running: readonly Running[]): void {
  if (work.plan.nll) return;
  for (const one of running) drawTokens(work, one);
}

function drawTokens({ state }: DeviceWork, { microBatch, control, firstOutput }: Running): void {
  const count = microBatch.outputs.length;
  if (count === 0) return;
  const logits = rows(state.logits, firstOutput, count);
  const ids = rows(state.ids, firstOutput, count);
  if (control.sampling) state.ops.sample(logits, ids, control.sampling);
  else state.ops.argmax(logits, ids);
  if (microBatch.logProbs)
    queueLogProbs(state, logits, microBatch.targets ? control.targets : ids, firstOutput);
  if (microBatch.topLogProbs) queueTop(state, logits, microBatch.topLogProbs, firstOutput);
}

function queueLogits({ model, state }: DeviceWork, weights: Weights, x: Tensor, out: Tensor): void {
  const { scale, softCap } = model.logits;
  state.ops.linear(x, weights.matrix('projection'), { bias: weights.optional('bias') }, out);
  if (scale !== 1 || softCap !== 0) state.ops.scaleCap(out, scale, softCap);
}
