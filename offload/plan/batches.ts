// How much could be computed together: tokens and sequences of a micro-batch, tokens of a pass, most first.

import { isDense } from '../port/formats.js';
import type { PlanInput } from './input.js';

const MICRO_BATCH_TOKENS = [8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1];
/** Beyond these, products gain nothing and scratch grows. */
const MOST_IN_PLACE = 512;
const MOST_ON_DEVICE = 4096;
/** Stored weights become values anew for each micro-batch, which half as many do half as often. */
const MOST_WITH_STORED_WEIGHTS = 8192;

/** Prompts that need more take several passes, so that hidden states stay bounded however long they are. */
export const MOST_MICRO_BATCHES = 64;
const PASS_HALVINGS = 3;

/** What is computed together, and where its keys and values rest. */
export interface Batch {
  readonly microBatchTokens: number;
  readonly microBatchSequences: number;
  readonly passTokens: number;
  readonly kv: 'device' | 'dram';
}

/** All that may be tried with micro-batches of so many tokens. */
export function batchesFor(input: PlanInput, tokens: readonly number[]): Batch[] {
  const { computesInPlace, kvOffload } = input.options;
  const onDevice = kvOffload && !computesInPlace ? [] : batchesWith(input, 'device', tokens);
  const mayRestInDram = !computesInPlace && !meetAtBlocks(input);
  return mayRestInDram ? [...onDevice, ...batchesWith(input, 'dram', tokens)] : onDevice;
}

/**
 * GPUs wait for each other within a block. Whatever one of them still has to prepare comes before that wait, so a block is handed over
 * whole, which keys and values on their way from DRAM would take apart.
 */
export function meetAtBlocks({ model, options }: Pick<PlanInput, 'model' | 'options'>): boolean {
  return model.shares !== undefined && options.cuda === true;
}

function batchesWith(input: PlanInput, kv: Batch['kv'], tokens: readonly number[]): Batch[] {
  return tokens.flatMap((microBatchTokens) =>
    sequenceCandidates(input, kv, microBatchTokens).flatMap((microBatchSequences) =>
      passCandidates(input, microBatchTokens).map((passTokens) => ({
        microBatchTokens,
        microBatchSequences,
        passTokens,
        kv,
      })),
    ),
  );
}

/** Tokens computed together, most first. */
export function microBatchCandidates({ model, workload, options }: PlanInput): number[] {
  if (options.microBatchTokens) return [options.microBatchTokens];
  const isStored = model.blocks.some(({ matrices }) => matrices.some(({ format }) => !isDense(format)));
  const onDevice = isStored ? MOST_WITH_STORED_WEIGHTS : MOST_ON_DEVICE;
  const limit = options.computesInPlace ? MOST_IN_PLACE : onDevice;
  const most = Math.min(limit, Math.max(1, workload.promptTokens));
  const useful = MICRO_BATCH_TOKENS.filter((tokens) => tokens <= most);
  return useful.length === 0 || (useful[0] ?? 0) < most ? [most, ...useful] : useful;
}

/** How many sequences a micro-batch may have: fewer need smaller buffers for keys and values that rest in DRAM. */
function sequenceCandidates({ workload, options }: PlanInput, kv: Batch['kv'], tokens: number): number[] {
  const most = Math.min(options.microBatchSequences ?? workload.sequences, tokens);
  if (kv === 'device') return [most];
  const candidates: number[] = [];
  for (let sequences = most; sequences >= 1; sequences = Math.floor(sequences / 2))
    candidates.push(sequences);
  return candidates;
}

/** Tokens of a pass, most first: shorter ones need less memory, and read weights more often while prompts are taken in. */
function passCandidates(input: PlanInput, microBatchTokens: number): number[] {
  const { workload, options } = input;
  const most = mostPassTokens(input, microBatchTokens);
  const least = Math.max(workload.sequences, microBatchTokens);
  if (options.passTokens !== undefined) return [Math.max(least, Math.min(most, options.passTokens))];
  // In a pipeline short passes follow each other, so that every device has one.
  if (options.pipeline) return [...new Set([most, Math.max(least, Math.ceil(most / 4)), least])];
  if (options.deviceBudgetBytes === undefined || workload.output === 'nll') return [most];
  return Array.from({ length: PASS_HALVINGS + 1 }, (_, halvings) => Math.ceil(most / 2 ** halvings)).filter(
    (tokens, index) => index === 0 || tokens >= least,
  );
}

/** Prompts together, within bounds. */
export function mostPassTokens({ workload }: PlanInput, microBatchTokens: number): number {
  const most = Math.min(workload.promptTokens, MOST_MICRO_BATCHES * microBatchTokens);
  return Math.max(most, workload.sequences, microBatchTokens);
}
