// What a plan needs beside the weights: cache, states, scratch and logits, each size with its reason.

import { present } from '../errors.js';
import { headInputColumns } from '../model/forward-walk.js';
import { blockPageBytes, PAGE_TOKENS, pageBytes, pagesFor } from '../model/kv-cache.js';
import { layoutLayer } from '../model/layout.js';
import type { ModelSpec } from '../model/model.js';
import { DTYPE_BYTES, type DType } from '../port/dtype.js';
import { controlWords, LIKELIHOOD_WORDS, placeBytes, resultBytes } from '../run/pass.js';
import type { Transfer } from '../stream/transfer.js';
import { rowSlotBytes } from '../stream/weight-source.js';
import { counted, formatBytes, MiB } from '../units.js';
import { cudaCosts } from './device-costs.js';
import { dryRun } from './dry-run.js';
import type { KvBufferPlan, PlanOptions, PlanTerm, Workload } from './plan.js';

const MICRO_BATCH_TOKENS = [4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1];
/** Beyond these, products gain nothing and scratch grows. */
const MOST_IN_PLACE = 512;
const MOST_ON_DEVICE = 4096;

/** Prompts that need more take several passes, so that hidden states stay bounded however long they are. */
const MOST_MICRO_BATCHES = 64;
const PASS_HALVINGS = 3;
const ROWS_TERM = 'embedding rows';
const ROWS_REASON = 'recently used rows of the tables, in aligned slots';
/** Tokens of texts repeat: most of what a text needs is among so many. Tables of positions have hardly more rows. */
const KEPT_ROWS = 2048;
/** Beyond the rows of a pass, of all tables together: locking more memory would delay the start. */
const MOST_KEPT_BYTES = 64 * MiB;
const KEPT_SHARE = 1 / 16;

export interface Sizing {
  readonly model: ModelSpec;
  readonly workload: Workload;
  readonly options: PlanOptions;
  readonly hostBufferBytes: number;
  readonly deviceBufferBytes: number;
  readonly pieceColumns: number;
  /** By layer, in host memory and in a device's. */
  readonly hostLayerBytes: readonly number[];
  readonly deviceLayerBytes: readonly number[];
  readonly activationType: DType;
  readonly transfer: Transfer;
}

/** Everything that does not depend on where the weights rest. */
export interface Sizes {
  readonly microBatchTokens: number;
  readonly microBatchSequences: number;
  readonly passTokens: number;
  readonly kvPages: number;
  readonly kvBuffers: KvBufferPlan;
  readonly workspaceBytes: number;
  readonly logitRows: number;
  readonly logitColumns: number;
  /** Room for the tokens of all sequences, where drawing looks at them. */
  readonly historyTokens: number;
  readonly rowCacheBytes: readonly number[];
  readonly blockFlopsPerToken: number;
}

/** Tokens computed together, most first. */
export function microBatchCandidates({ workload, options }: Sizing): number[] {
  if (options.microBatchTokens) return [options.microBatchTokens];
  const limit = options.computesInPlace ? MOST_IN_PLACE : MOST_ON_DEVICE;
  const most = Math.min(limit, Math.max(1, workload.promptTokens));
  const useful = MICRO_BATCH_TOKENS.filter((tokens) => tokens <= most);
  return useful.length === 0 || (useful[0] ?? 0) < most ? [most, ...useful] : useful;
}

/** How much is computed together, and where keys and values rest. */
export interface Work {
  /** Of a micro-batch. */
  readonly tokens: number;
  readonly sequences: number;
  readonly kv: 'device' | 'dram';
  /** Tokens that a pass takes at most, where it is to take fewer than it might. */
  readonly passTokens?: number;
}

/** Tokens of a pass, most first: shorter ones need less memory, and read weights more often while prompts are taken in. */
export function passCandidates(sizing: Sizing, microBatchTokens: number): number[] {
  const { workload, options } = sizing;
  const most = mostPassTokens(sizing, microBatchTokens);
  const least = Math.max(workload.sequences, microBatchTokens);
  if (options.passTokens !== undefined) return [Math.max(least, Math.min(most, options.passTokens))];
  if (options.deviceBudgetBytes === undefined || workload.output === 'nll') return [most];
  return Array.from({ length: PASS_HALVINGS + 1 }, (_, halvings) => Math.ceil(most / 2 ** halvings)).filter(
    (tokens, index) => index === 0 || tokens >= least,
  );
}

function mostPassTokens({ workload }: Sizing, microBatchTokens: number): number {
  const most = Math.min(workload.promptTokens, MOST_MICRO_BATCHES * microBatchTokens);
  return Math.max(most, workload.sequences, microBatchTokens);
}

/** All memory for micro-batches of that size, but for weights and their buffers. */
export function workingMemory(sizing: Sizing, work: Work): { sizes: Sizes; terms: PlanTerm[] } {
  const { model, workload, options, pieceColumns, activationType } = sizing;
  const tier = options.computesInPlace ? 'dram' : 'gpu';
  const microBatchTokens = work.tokens;
  const microBatchSequences = Math.min(work.sequences, microBatchTokens);
  const passTokens = work.passTokens ?? mostPassTokens(sizing, microBatchTokens);
  const logitRows = workload.output === 'nll' ? microBatchTokens : workload.sequences;
  const logitColumns = workload.output === 'nll' ? pieceColumns : model.vocabSize;
  const { workspaceBytes, blockFlopsPerToken } = dryRun(
    model,
    microBatchTokens,
    Math.max(logitRows, 1),
    activationType,
  );
  const kv = kvMemory(sizing, work.kv, microBatchSequences);
  const headRows = workload.output === 'nll' ? passTokens : workload.sequences;
  const rowCacheBytes = model.tables.map(
    (table) => Math.min(table.rowCount, Math.max(2 * microBatchTokens, 64)) * rowSlotBytes(table),
  );
  const hidden = (passTokens * model.hiddenSize + headRows * headInputColumns(model)) * 4;
  const chunked =
    passTokens >= workload.promptTokens
      ? ''
      : passTokens < mostPassTokens(sizing, microBatchTokens)
        ? ', fewer than all prompts have, to leave memory to layers,'
        : `, since a pass takes at most ${MOST_MICRO_BATCHES} micro-batches and longer prompts several passes,`;
  const terms: PlanTerm[] = [
    ...kv.terms,
    {
      tier,
      name: 'hidden states',
      bytes: hidden,
      reason: `(${counted(passTokens, 'token')} of a pass${chunked} · ${model.hiddenSize} + ${counted(headRows, 'row')} for the head · ${headInputColumns(model)}) · 4 bytes`,
    },
    {
      tier,
      name: 'workspace',
      bytes: workspaceBytes,
      reason: `scratch of one layer for ${counted(microBatchTokens, 'token')} of a micro-batch, ${activationType}`,
    },
    {
      tier,
      name: 'logits',
      bytes: logitRows * logitColumns * 4,
      reason: `${counted(logitRows, 'row')} · ${counted(logitColumns, 'column')} · 4 bytes`,
    },
    {
      tier: 'dram',
      name: ROWS_TERM,
      bytes: rowCacheBytes.reduce((a, b) => a + b, 0),
      reason: ROWS_REASON,
    },
    {
      tier,
      name: 'fixed weights',
      bytes: layoutLayer(model.fixed)[options.computesInPlace ? 'host' : 'device'].sizeBytes,
      reason: 'norms of embedding and head stay on the device',
    },
  ];
  const historyTokens = workload.history ? workload.sequences * workload.contextTokens : 0;
  const rowsOfPass = { passTokens, headRows, logitRows, logitColumns, historyTokens };
  terms.push(...tableTerms(sizing, { ...rowsOfPass, microBatchTokens }));
  const { inputBytes = 0 } = workload;
  if (inputBytes > 0) {
    const reason = 'where each prompt is, how long it is, and what came by a pipe; or the tokens of a text';
    terms.push({ tier: 'dram', name: 'input', bytes: inputBytes, reason });
  }
  if (sizing.transfer.deviceBytes > 0) {
    terms.push({
      tier: 'gpu',
      name: 'gathering',
      bytes: sizing.transfer.deviceBytes,
      reason: 'what NCCL took of a GPU for its communicator and first gather, measured',
    });
  }
  if (options.cuda) {
    const drawnRows = workload.output === 'tokens' ? microBatchSequences : 0;
    const { contextTokens } = workload;
    terms.push(...cudaCosts(model, { tokens: microBatchTokens, contextTokens, logitRows, drawnRows }));
  }
  const sizes = {
    microBatchTokens,
    microBatchSequences,
    passTokens,
    kvPages: kv.pages,
    kvBuffers: kv.buffers,
    workspaceBytes,
    logitRows,
    logitColumns,
    historyTokens,
    rowCacheBytes,
    blockFlopsPerToken,
  };
  return { sizes, terms };
}

/** Loads run ahead and stores behind while a third one computes. */
const KV_BUFFERS = 3;

/** At least those of the longest sequence, which has to get to its end. */
function cachedPages({ sequences, contextTokens, cachedTokens }: Workload, pageTokens: number): number {
  const each = pagesFor(contextTokens, pageTokens);
  if (cachedTokens === undefined) return sequences * each;
  return Math.min(sequences * each, Math.max(each, pagesFor(cachedTokens, pageTokens)));
}

/** Pages of all sequences, and of one micro-batch where they rest in DRAM. */
function kvMemory(
  { model, workload, options, activationType }: Sizing,
  rests: Work['kv'],
  microBatchSequences: number,
): { pages: number; buffers: KvBufferPlan; terms: PlanTerm[] } {
  const { sequences, contextTokens } = workload;
  const { kvHeads, headDim } = model;
  const { pageTokens = PAGE_TOKENS } = options;
  const shape = { blocks: model.blocks.length, kvHeads, headDim, dtype: activationType, pageTokens };
  const each = pagesFor(contextTokens, pageTokens);
  const pages = cachedPages(workload, pageTokens);
  const bytes = pages * pageBytes(shape);
  const perToken = formatBytes(pageBytes(shape) / pageTokens);
  const name = 'key-value cache';
  const held =
    pages === sequences * each
      ? `${counted(sequences, 'sequence')} · ${counted(each, 'page')}`
      : counted(pages, 'page');
  const reason = `${held} of ${pageTokens} tokens · ${formatBytes(pageBytes(shape))} a page in all blocks, ${activationType} (${perToken} a token)`;
  if (options.computesInPlace || rests === 'device') {
    const tier = options.computesInPlace ? 'dram' : 'gpu';
    return { pages, buffers: { count: 0, pages: 0 }, terms: [{ tier, name, bytes, reason }] };
  }
  const buffers = { count: KV_BUFFERS, pages: microBatchSequences * each };
  const buffersBytes = buffers.count * buffers.pages * blockPageBytes(shape);
  return {
    pages,
    buffers,
    terms: [
      { tier: 'dram', name, bytes: bytes * options.deviceCount, reason },
      {
        tier: 'gpu',
        name: 'key-value buffers',
        bytes: buffersBytes,
        reason: `${KV_BUFFERS} buffers for ${counted(microBatchSequences, 'sequence')} of a micro-batch in one block: one computes, the others load and store`,
      },
    ],
  };
}

/**
 * More rows, where all layers rest in DRAM and its budget leaves `freeBytes`: those of a whole pass, since else a long
 * prompt's rows push each other out and the drive is read at every pass; and of a small share of what is then left
 * KEPT_ROWS, so that a step of decoding seldom waits for the drive.
 */
export function keepRowsOfPass(
  { model, workload }: Sizing,
  sizes: Sizes,
  terms: readonly PlanTerm[],
  freeBytes: number,
): { sizes: Sizes; terms: PlanTerm[] } {
  let left = freeBytes;
  const grown = (planned: readonly number[], wantedRows: readonly number[], mostBytes: number) =>
    model.tables.map((table, index) => {
      const bytes = present(planned[index], 'row cache');
      const slotBytes = rowSlotBytes(table);
      const wanted = Math.min(table.rowCount, present(wantedRows[index], 'rows')) * slotBytes;
      const affordable = Math.floor(Math.min(left, mostBytes) / slotBytes) * slotBytes;
      const more = Math.max(0, Math.min(wanted - bytes, affordable));
      left -= more;
      return bytes + more;
    });
  const rowsOfPass = grown(
    sizes.rowCacheBytes,
    model.tables.map(() => sizes.passTokens),
    left,
  );
  const kept = model.tables.map(({ rowsFrom, rowOffset }) =>
    rowsFrom === 'token' ? KEPT_ROWS : Math.max(KEPT_ROWS, workload.contextTokens + rowOffset),
  );
  const share = Math.min(MOST_KEPT_BYTES, left * KEPT_SHARE) / model.tables.length;
  const rowCacheBytes = grown(rowsOfPass, kept, share);
  const bytes = rowCacheBytes.reduce((a, b) => a + b, 0);
  const slots = model.tables.map((table, index) => (rowCacheBytes[index] ?? 0) / rowSlotBytes(table));
  const reason = `${slots.join(' + ')} ${ROWS_REASON}: all of a pass (${counted(sizes.passTokens, 'token')}), and as many as a little of what is left holds`;
  return {
    sizes: { ...sizes, rowCacheBytes },
    terms: terms.map((term) => (term.name === ROWS_TERM ? { ...term, bytes, reason } : term)),
  };
}

/** Where JavaScript writes tables and reads results, and the small vectors beside the weights. */
function tableTerms(
  { model, workload, options }: Sizing,
  sizes: {
    readonly passTokens: number;
    readonly microBatchTokens: number;
    readonly headRows: number;
    readonly logitRows: number;
    readonly logitColumns: number;
    readonly historyTokens: number;
  },
): PlanTerm[] {
  const { sequences, contextTokens, output } = workload;
  const words = controlWords(
    { ...sizes, sequences },
    model.tables.length,
    pagesFor(contextTokens, options.pageTokens),
  );
  const constants = Object.values(model.constants).reduce((total, { byteLength }) => total + byteLength, 0);
  const tables = words * DTYPE_BYTES.i32 + constants;
  const places = placeBytes(sizes.passTokens, sizes.headRows);
  const logitsRead = output === 'logits' ? sizes.logitRows * sizes.logitColumns : 0;
  const results = resultBytes(sizes.headRows, logitsRead) + places;
  const kept = sizes.headRows * (DTYPE_BYTES.i32 + LIKELIHOOD_WORDS * DTYPE_BYTES.f32) + places;
  const name = 'tables and results';
  const reason = `integer tables for ${counted(sizes.passTokens, 'token')}, constants, results of ${counted(sizes.headRows, 'output')}`;
  if (options.computesInPlace) return [{ tier: 'dram', name, bytes: tables + results + kept, reason }];
  // The host keeps what it uploads, the fixed weights among it.
  const uploaded = layoutLayer(model.fixed).host.sizeBytes;
  const bytes = (tables + results) * options.deviceCount + uploaded;
  return [
    { tier: 'dram', name, bytes, reason },
    { tier: 'gpu', name, bytes: tables + kept, reason },
  ];
}
