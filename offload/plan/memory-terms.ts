// What is needed beside the layers, one idea after the other: cache, states, scratch, logits, tables; each with its reason.

import { headInputColumns } from '../model/forward-walk.js';
import { type HorizonPages, horizonsOf, mostHeldPages } from '../model/horizon.js';
import { bufferBytes, cacheBytes, PAGE_TOKENS, pageBytes, pagesFor } from '../model/kv-cache.js';
import { KV_TYPE_NAMES } from '../model/kv-type.js';
import { layoutLayer } from '../model/layout.js';
import { stateBytes, statesBytes, statesGrow } from '../model/state-cache.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import { exchangeBytes } from '../port/exchange.js';
import { counted, formatBytes } from '../units.js';
import { type Batch, MOST_MICRO_BATCHES, mostPassTokens } from './batches.js';
import { cudaCosts } from './device-costs.js';
import type { PlanInput, Workload } from './input.js';
import { headRowsOf, outputWords, passSizes, rowsPerToken } from './pass-sizes.js';
import type { KvBufferPlan, PlanTerm, Sizes } from './plan.js';
import { roundBytes } from './sharing.js';

/** What the terms are made of. */
type Counts = Omit<Sizes, 'terms'>;

/** Loads run ahead and stores behind while a third one computes. */
const KV_BUFFERS = 3;

/** At least those of the longest sequence, which has to get to its end. */
function cachedPages({ sequences, contextTokens, cachedTokens }: Workload, pageTokens: number): number {
  const each = pagesFor(contextTokens, pageTokens);
  if (cachedTokens === undefined) return sequences * each;
  return Math.min(sequences * each, Math.max(each, pagesFor(cachedTokens, pageTokens)));
}

function horizonPages(input: PlanInput, batch: Batch, kvPages: number): HorizonPages[] {
  const { model, workload, options } = input;
  const { pageTokens = PAGE_TOKENS } = options;
  const { microBatchTokens, microBatchSequences, kv } = batch;
  const { contextTokens, sequences } = workload;
  const each = pagesFor(contextTokens, pageTokens);
  const sizes = { contextTokens, pageTokens, microBatchTokens, microBatchSequences };
  const isBuffered = kv === 'dram' && !options.computesInPlace;
  return horizonsOf(model.caches).flatMap((horizon) => {
    const pages = mostHeldPages(horizon, sequences, sizes);
    const inMicroBatch = mostHeldPages(horizon, microBatchSequences, sizes);
    const bufferPages = isBuffered ? Math.min(microBatchSequences * each, inMicroBatch) : 0;
    return pages < kvPages ? [{ horizon, pages, bufferPages }] : [];
  });
}

/** Pages of all sequences, and of one micro-batch where they rest in DRAM. */
export function cacheMemory(
  input: PlanInput,
  batch: Batch,
): { pages: number; horizons: readonly HorizonPages[]; buffers: KvBufferPlan; terms: PlanTerm[] } {
  const { model, workload, options, kvType } = input;
  const { kv, microBatchSequences } = batch;
  const { sequences, contextTokens } = workload;
  const { pageTokens = PAGE_TOKENS } = options;
  const shape = { caches: model.caches, dtype: kvType, pageTokens };
  const each = pagesFor(contextTokens, pageTokens);
  const pages = cachedPages(workload, pageTokens);
  const horizons = horizonPages(input, batch, pages);
  const counts = { kvPages: pages, horizons };
  const bytes = cacheBytes(shape, counts);
  const perToken = formatBytes(pageBytes(shape) / pageTokens);
  const name = 'key-value cache';
  const held =
    pages === sequences * each
      ? `${counted(sequences, 'sequence')} · ${counted(each, 'page')}`
      : counted(pages, 'page');
  const fewer = horizons.map(({ horizon: { tokens, inChunks }, pages: some }) => {
    return `, ${some} in all where blocks see ${inChunks ? `chunks of ${tokens}` : `the latest ${tokens}`}`;
  });
  const reason = `${held} of ${pageTokens} tokens${fewer.join('')} · ${formatBytes(pageBytes(shape))} a page in all blocks, ${KV_TYPE_NAMES[kvType]} (${perToken} a token)`;
  if (options.pipeline && kv === 'device') {
    // What each stage has of it is said with its layers.
    return { pages, horizons, buffers: { count: 0, pages: 0 }, terms: [] };
  }
  if (options.computesInPlace || kv === 'device') {
    const tier = options.computesInPlace ? 'dram' : 'gpu';
    return { pages, horizons, buffers: { count: 0, pages: 0 }, terms: [{ tier, name, bytes, reason }] };
  }
  const buffers = { count: KV_BUFFERS, pages: microBatchSequences * each };
  const tablePages = [buffers.pages, ...horizons.map(({ bufferPages }) => bufferPages)];
  const buffersBytes = input.batches * buffers.count * bufferBytes(shape, tablePages, counts);
  return {
    pages,
    horizons,
    buffers,
    terms: [
      { tier: 'dram', name, bytes: bytes * (options.pipeline ? input.batches : options.deviceCount), reason },
      {
        tier: 'gpu',
        name: 'key-value buffers',
        bytes: buffersBytes,
        reason: `${KV_BUFFERS} buffers for ${counted(microBatchSequences, 'sequence')} of a micro-batch in one block: one computes, the others load and store`,
      },
    ],
  };
}

/** What blocks keep per sequence in place of keys and values; it rests where it is computed with. */
export function recurrentTerms({ model, workload, options }: PlanInput): PlanTerm[] {
  const { sequences, contextTokens } = workload;
  const { caches } = model;
  const bytes = statesBytes(caches, { slots: sequences, contextTokens });
  if (bytes === 0 || options.pipeline) return [];
  const each = formatBytes(stateBytes(caches, contextTokens));
  const length = statesGrow(caches) ? `for up to ${counted(contextTokens, 'token')}` : 'however long it is';
  const reason = `${counted(sequences, 'sequence')} · ${each} in all blocks that keep one, ${length}`;
  return [{ tier: options.computesInPlace ? 'dram' : 'gpu', name: 'recurrent states', bytes, reason }];
}

/** The residual of a pass, and what the head takes of its outputs. */
export function statesTerm(input: PlanInput, { passTokens, microBatchTokens }: Counts): PlanTerm {
  const { model, workload } = input;
  const { sequences, output } = workload;
  const headRows = headRowsOf({ nll: output === 'nll', sequences, passTokens });
  const columns = headInputColumns(model);
  const chunked =
    passTokens >= workload.promptTokens
      ? ''
      : passTokens < mostPassTokens(input, microBatchTokens)
        ? ', fewer than all prompts have, to leave memory to layers,'
        : `, since a pass takes at most ${MOST_MICRO_BATCHES} micro-batches and longer prompts several passes,`;
  return {
    tier: computeTier(input),
    name: 'hidden states',
    bytes: input.batches * (passTokens * model.hiddenSize + headRows * columns) * DTYPE_BYTES.f32,
    reason: `${ofBatches(input)}(${counted(passTokens, 'token')} of a pass${chunked} · ${model.hiddenSize} + ${counted(headRows, 'row')} for the head · ${columns}) · 4 bytes`,
  };
}

export function scratchTerm(input: PlanInput, { workspaceBytes, microBatchTokens }: Counts): PlanTerm {
  return {
    tier: computeTier(input),
    name: 'workspace',
    bytes: workspaceBytes,
    reason: `scratch of one layer for ${counted(microBatchTokens, 'token')} of a micro-batch, ${input.activationType}`,
  };
}

export function logitsTerm(input: PlanInput, { logitRows, logitColumns }: Counts): PlanTerm {
  return {
    tier: computeTier(input),
    name: 'logits',
    bytes: input.batches * logitRows * logitColumns * DTYPE_BYTES.f32,
    reason: `${ofBatches(input)}${counted(logitRows, 'row')} · ${counted(logitColumns, 'column')} · 4 bytes`,
  };
}

export function fixedWeightsTerm(input: PlanInput): PlanTerm {
  return {
    tier: computeTier(input),
    name: 'fixed weights',
    bytes: layoutLayer(input.model.fixed)[input.options.computesInPlace ? 'host' : 'device'].sizeBytes,
    reason: 'norms of embedding and head stay on the device',
  };
}

/** Where JavaScript writes tables and reads results, and the small vectors beside the weights. */
export function tableTerms(input: PlanInput, counts: Counts): PlanTerm[] {
  const { model, workload, options } = input;
  const { sequences, contextTokens, output } = workload;
  const { passTokens, topLogProbs } = counts;
  const pass = {
    nll: output === 'nll',
    readLogits: output === 'logits',
    sequences,
    ...counts,
  };
  const pages = pagesFor(contextTokens, options.pageTokens);
  const { headRows, controlWords, resultBytes, placeBytes, maskBytes } = passSizes(
    pass,
    rowsPerToken(model),
    pages,
  );
  const constants = Object.values(model.constants).reduce((total, { byteLength }) => total + byteLength, 0);
  const tables = controlWords * DTYPE_BYTES.i32 + constants + maskBytes;
  const results = resultBytes + placeBytes;
  const kept = headRows * outputWords(topLogProbs) * DTYPE_BYTES.f32 + placeBytes;
  const name = 'tables and results';
  const masks = maskBytes > 0 ? ', which tokens each may be' : '';
  const reason = `integer tables for ${counted(passTokens, 'token')}, constants, results of ${counted(headRows, 'output')}${masks}`;
  if (options.computesInPlace) return [{ tier: 'dram', name, bytes: tables + results + kept, reason }];
  // The host keeps what it uploads, the fixed weights among it.
  const uploaded = layoutLayer(model.fixed).host.sizeBytes;
  const bytes = (tables + results) * options.deviceCount * input.batches + uploaded;
  return [
    { tier: 'dram', name, bytes, reason },
    { tier: 'gpu', name, bytes: input.batches * (tables + kept), reason },
  ];
}

/** What the input of the run takes until its end. */
export function inputTerms({ workload: { inputBytes = 0 } }: PlanInput): PlanTerm[] {
  if (inputBytes === 0) return [];
  const reason = 'where each prompt is, how long it is, and what came by a pipe; or the tokens of a text';
  return [{ tier: 'dram', name: 'input', bytes: inputBytes, reason }];
}

export function gatheringTerms({ transfer: { deviceBytes } }: PlanInput): PlanTerm[] {
  if (deviceBytes === 0) return [];
  const reason = 'what NCCL took of a GPU for its communicator and first gather, measured';
  return [{ tier: 'gpu', name: 'gathering', bytes: deviceBytes, reason }];
}

/** What devices that compute together sum through. */
export function exchangeTerms({ model, workload }: PlanInput): PlanTerm[] {
  const sizeBytes = roundBytes(model, workload);
  if (sizeBytes === undefined || !model.shares) return [];
  const devices = model.shares.length;
  const reason = `two rounds of up to ${formatBytes(sizeBytes)} from each other device`;
  return [{ tier: 'gpu', name: 'sums of devices', bytes: exchangeBytes(devices, sizeBytes), reason }];
}

/** What a CUDA device takes beside the bytes that are asked of it. */
export function cudaTerms(input: PlanInput, counts: Counts): PlanTerm[] {
  const { model, workload, options, activationType, kvType } = input;
  if (!options.cuda) return [];
  const { microBatchTokens: tokens, microBatchSequences, logitRows } = counts;
  const drawnRows = workload.output === 'tokens' ? microBatchSequences : 0;
  const { contextTokens } = workload;
  return cudaCosts(model, { tokens, contextTokens, logitRows, drawnRows, activationType, kvType });
}

/** What follows is of one batch, where several are on their way. */
function ofBatches({ batches }: PlanInput): string {
  return batches > 1 ? `${counted(batches, 'batch', 'batches')} · ` : '';
}

/** Where what compute works on lies. */
function computeTier({ options }: PlanInput): PlanTerm['tier'] {
  return options.computesInPlace ? 'dram' : 'gpu';
}
