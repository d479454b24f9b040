// How much memory a batch takes beside the layers, and everything that follows from how much is computed together.

import type { Batch } from './batches.js';
import { dryRun } from './dry-run.js';
import { hostRowsTerms } from './host-rows.js';
import type { PlanInput } from './input.js';
import {
  cacheMemory,
  cudaTerms,
  exchangeTerms,
  fixedWeightsTerm,
  gatheringTerms,
  inputTerms,
  logitsTerm,
  recurrentTerms,
  scratchTerm,
  statesTerm,
  tableTerms,
} from './memory-terms.js';
import { MASK_TOKENS } from './pass-sizes.js';
import type { PlanTerm, Sizes } from './plan.js';
import { fewestRowsBytes, rowsTerm } from './row-memory.js';

/** Each sequence's own new tokens, and so many others as may be named. */
function addedTokens({ model, workload }: PlanInput): number {
  const { sequences, contextTokens, addedTokens: others } = workload;
  return others === undefined ? 0 : sequences * Math.min(model.vocabSize, contextTokens + others);
}

/** Whatever tier the layers rest in. */
export function sizesFor(input: PlanInput, batch: Batch): Sizes {
  const { model, workload, pieceColumns, activationType } = input;
  const { microBatchTokens, microBatchSequences, passTokens } = batch;
  const isNll = workload.output === 'nll';
  const logitRows = isNll ? microBatchTokens : workload.sequences;
  const cache = cacheMemory(input, batch);
  const rowCacheBytes = fewestRowsBytes(model, microBatchTokens);
  const { workspaceBytes, blockFlopsPerToken } = dryRun(
    model,
    microBatchTokens,
    Math.max(logitRows, 1),
    activationType,
  );
  const terms: PlanTerm[] = [];
  const sizes: Sizes = {
    microBatchTokens,
    microBatchSequences,
    passTokens,
    kvPages: cache.pages,
    horizons: cache.horizons,
    kvBuffers: cache.buffers,
    workspaceBytes,
    logitRows,
    logitColumns: isNll ? pieceColumns : model.vocabSize,
    historyTokens: workload.history ? workload.sequences * workload.contextTokens : 0,
    addedTokens: addedTokens(input),
    topLogProbs: Math.min(workload.topLogProbs ?? 0, model.vocabSize),
    maskWords: workload.masks ? Math.ceil(model.vocabSize / MASK_TOKENS) : 0,
    rowCacheBytes,
    blockFlopsPerToken,
    terms,
  };
  terms.push(
    ...cache.terms,
    ...recurrentTerms(input),
    statesTerm(input, sizes),
    scratchTerm(input, sizes),
    logitsTerm(input, sizes),
    rowsTerm(rowCacheBytes),
    fixedWeightsTerm(input),
    ...tableTerms(input, sizes),
    ...inputTerms(input),
    ...gatheringTerms(input),
    ...exchangeTerms(input),
    ...hostRowsTerms(input.cuttable, input.options),
    ...cudaTerms(input, sizes),
  );
  return sizes;
}
