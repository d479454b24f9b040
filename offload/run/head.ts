// The head of the model, piece by piece: its input once per pass, then logits and what is made of them.

import type { Weights } from '../model/model.js';
import type { PlannedLayer } from '../plan/plan.js';
import type { Tensor } from '../port/ops.js';
import { columns, rows } from '../port/tensor.js';
import { queueLogProbs } from './log-probs.js';
import { type DeviceWork, outputCount, type Running } from './running.js';
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
  for (const { microBatch, control, firstOutput } of running) {
    const count = microBatch.outputs.length;
    if (count === 0) continue;
    ops.enter(undefined, undefined);
    const logits = columns(rows(all, 0, count), 0, piece.columns);
    queueLogits(work, weights, rows(headRows, firstOutput, count), logits);
    ops.nllFold(rows(nllState, firstOutput, count), logits, control.targets, piece.firstColumn);
  }
}

function fillLogits(
  work: DeviceWork,
  running: readonly Running[],
  piece: PlannedLayer,
  weights: Weights,
): void {
  const { model, state } = work;
  const outputs = outputCount(running);
  const logits = columns(rows(state.logits, 0, outputs), piece.firstColumn, piece.columns);
  queueLogits(work, weights, rows(state.headRows, 0, outputs), logits);
  const isLast = piece.firstColumn + piece.columns === model.vocabSize;
  if (isLast) for (const one of running) queueTokens(work, one);
}

function queueTokens({ state }: DeviceWork, { microBatch, control, firstOutput }: Running): void {
  const count = microBatch.outputs.length;
  if (count === 0) return;
  const logits = rows(state.logits, firstOutput, count);
  const ids = rows(state.ids, firstOutput, count);
  if (control.sampling) state.ops.sample(logits, ids, control.sampling);
  else state.ops.argmax(logits, ids);
  if (microBatch.logProbs) queueLogProbs(state, logits, ids, firstOutput);
}

function queueLogits({ model, state }: DeviceWork, weights: Weights, x: Tensor, out: Tensor): void {
  const { scale, softCap } = model.logits;
  state.ops.linear(x, weights.matrix('projection'), { bias: weights.optional('bias') }, out);
  if (scale !== 1 || softCap !== 0) state.ops.scaleCap(out, scale, softCap);
}
