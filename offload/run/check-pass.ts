// Numbers of a pass that become indices into native memory: checked before any of them is written to a table.

import { assert, OperatingError, present } from '../errors.js';
import { firstRead } from '../model/horizon.js';
import { pagesFor } from '../model/kv-cache.js';
import type { ModelSpec } from '../model/model.js';
import { hasStates } from '../model/state-cache.js';
import type { Plan } from '../plan/plan.js';
import type { MicroBatch, PageRun, SequenceSlice } from './pass.js';

type PassModel = Pick<ModelSpec, 'vocabSize' | 'maxContextTokens' | 'caches'>;
type PassPlan = Pick<
  Plan,
  | 'kvPages'
  | 'horizons'
  | 'pageTokens'
  | 'sequences'
  | 'nll'
  | 'readLogits'
  | 'addedTokens'
  | 'topLogProbs'
  | 'maskWords'
>;

/** Throws BAD_INPUT for tokens, or a programming error for what only this program makes. */
export function checkMicroBatch(microBatch: MicroBatch, model: PassModel, plan: PassPlan): void {
  const { slices, outputs, targets, sampling, logProbs, topLogProbs = 0 } = microBatch;
  let tokens = 0;
  for (const slice of slices) {
    checkSlice(slice, model, plan);
    tokens += slice.tokens.length;
  }
  if (hasStates(model.caches)) checkStateSlots(slices, plan.sequences);
  assert(
    outputs.every((index) => index >= 0 && index < tokens),
    'outputs are tokens of the micro-batch',
  );
  assert(!sampling || sampling.length === outputs.length, 'every output is drawn in its own way');
  assert(!sampling?.some(({ allowed }) => allowed) || plan.maskWords > 0, 'masks were planned for');
  assert(!sampling?.some(({ added }) => added) || plan.addedTokens > 0, 'what is added was planned for');
  assert(topLogProbs <= plan.topLogProbs, 'the likeliest tokens were planned for');
  assert(topLogProbs === 0 || logProbs, 'the likeliest tokens go with log-probabilities');
  assert(!logProbs || !(plan.nll || plan.readLogits), 'log-probabilities go with tokens');
  if (!plan.nll && !targets) return;
  assert(plan.nll || (logProbs && !sampling), 'given tokens are for log-probabilities, and nothing is drawn');
  assert(targets?.length === outputs.length, 'every output has a target');
  const stray = targets.find((target) => target < 0 || target >= model.vocabSize);
  if (stray === undefined) return;
  throw new OperatingError(
    'BAD_INPUT',
    `token ${stray} is to be predicted, but the model's vocabulary has ${model.vocabSize} tokens`,
  );
}

/** States are read and written by all of a sequence's layers: two sequences of one slot would mix. */
function checkStateSlots(slices: readonly SequenceSlice[], slots: number): void {
  const taken = new Set<number>();
  for (const { stateSlot = -1 } of slices) {
    const isSlot = Number.isInteger(stateSlot) && stateSlot >= 0 && stateSlot < slots;
    assert(isSlot && !taken.has(stateSlot), 'every sequence of a micro-batch has a state of its own');
    taken.add(stateSlot);
  }
}

function checkSlice(slice: SequenceSlice, model: PassModel, plan: PassPlan): void {
  const { tokens, startPosition, pages } = slice;
  // Other arrays would be cut to whole numbers without a word. By name, since a class is another one in another realm.
  assert(Object.prototype.toString.call(tokens) === '[object Int32Array]', 'tokens are an Int32Array');
  assert(Number.isSafeInteger(startPosition) && startPosition >= 0, 'a slice begins at a position');
  const context = startPosition + tokens.length;
  if (context > (model.maxContextTokens ?? Number.POSITIVE_INFINITY)) {
    throw new OperatingError(
      'PROMPT_TOO_LONG',
      `a sequence of ${context} tokens is to be computed, but the model's context is ${model.maxContextTokens}`,
    );
  }
  const needed = pagesFor(context, plan.pageTokens);
  checkPages({ firstPage: 0, pages }, needed, plan.kvPages);
  plan.horizons.forEach(({ horizon, pages: count }, index) => {
    const latest = present(slice.latestPages?.[index], 'pages of a horizon');
    const firstPage = Math.floor(firstRead(horizon, startPosition) / plan.pageTokens);
    assert(latest.firstPage >= 0 && latest.firstPage <= firstPage, 'a slice has all pages that it reads');
    checkPages(latest, needed, count);
  });
}

function checkPages({ firstPage, pages }: PageRun, end: number, count: number): void {
  for (let index = firstPage; index < end; index++) {
    const page = pages[index - firstPage] ?? -1;
    assert(Number.isInteger(page) && page >= 0 && page < count, 'pages are those of the cache');
  }
}
