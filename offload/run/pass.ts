// One traversal of all layers: its micro-batches, and the integer tables that kernels read about them.

import { assert, present } from '../errors.js';
import type { SequenceLength } from '../model/forward-options.js';
import { PAGE_TOKENS, pagesFor } from '../model/kv-cache.js';
import { STABLE_STEPS } from '../plan/pass-sizes.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type {
  AddedLogits,
  AllowedTokens,
  AttentionTables,
  Memory,
  SamplingTables,
  StateTables,
  Tensor,
} from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { roundUp } from '../units.js';

/** Page numbers of consecutive pages of a sequence, from its page `firstPage` on. */
export interface PageRun {
  readonly firstPage: number;
  readonly pages: readonly number[];
}

/** Consecutive tokens of one sequence. */
export interface SequenceSlice {
  /** Position of the first token. */
  readonly startPosition: number;
  /** Row of the token table, per token. */
  readonly tokens: Int32Array;
  /**
   * Tokens of the sequence that are known when these are computed, however its work is cut; absent where these are the
   * last. Only rotations that depend on the length ask for it.
   */
  readonly knownTokens?: number;
  /** Cache pages of the sequence, in order; they cover all positions up to the slice's last. */
  readonly pages: readonly number[];
  /** By horizon of the plan: the pages that hold what these tokens read, themselves included. */
  readonly latestPages?: readonly PageRun[];
  /** Where its states lie in every block that keeps some: no other sequence's are there. Absent where no block does. */
  readonly stateSlot?: number | undefined;
}

/** How the token of an output is drawn; meanings as in the `sample` operation. */
export interface SamplingRow {
  /** 0 takes the likeliest. */
  readonly temperature: number;
  /** 0 for all. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  /** Tokens that the penalty applies to; empty where it is 1. */
  readonly history: Int32Array;
  /** What is added to the logits of single tokens, each of them named once; absent for nothing. */
  readonly added?: AddedToTokens | undefined;
  /** 32 of them. */
  readonly randomBits: number;
  /** Which tokens it may be; absent for all. The head waits for it, so that it may be made while layers compute. */
  readonly allowed?: Promise<TokenMask> | undefined;
}

export interface AddedToTokens {
  readonly tokens: Int32Array;
  readonly values: Float32Array;
}

/** As a row of `masks` of AllowedTokens; undefined for all tokens. */
export type TokenMask = Uint32Array | undefined;

/** Sequences computed together, packed without padding. */
export interface MicroBatch {
  readonly slices: readonly SequenceSlice[];
  /** Tokens (by index in the micro-batch) whose next token is wanted. */
  readonly outputs: Int32Array;
  /** The token that follows, per output: for output `nll`, and for output `tokens` where log-probabilities of given tokens are wanted. */
  readonly targets?: Int32Array;
  /** For output `tokens`, per output; absent: the likeliest token. */
  readonly sampling?: readonly SamplingRow[];
  /** For output `tokens`: the log-probability of each output's token, or of its target, is wanted as well. */
  readonly logProbs?: boolean;
  /** And those of so many of the likeliest tokens, for each output; default 0. */
  readonly topLogProbs?: number;
  /**
   * Its tokens are those that the pass before it draws, in the order of that one's outputs: they are not known when it begins, and
   * those of `slices` only say how many there are.
   */
  readonly drawn?: boolean;
  /** Each token's first place is noted at which its hidden state is not finite: to say where a fault began. */
  readonly watched?: boolean;
}

/** All micro-batches of a device pass through each residency of a layer. */
export interface Pass {
  /** In a pipeline: whose pass it is; `perDevice` then has its micro-batches alone. */
  readonly batch?: number;
  readonly perDevice: readonly (readonly MicroBatch[])[];
  /**
   * The pass after this one is expected to have layers pass by whole, where others bring what they choose: the first of them are then
   * fetched while this one ends. Whatever comes, results are the same.
   */
  readonly expectsWhole?: boolean;
}

export function tokenCount(microBatch: MicroBatch): number {
  return microBatch.slices.reduce((sum, slice) => sum + slice.tokens.length, 0);
}

/** Which row of a table each token of the micro-batch wants. */
export function tableRows(from: 'token' | 'position', offset: number, microBatch: MicroBatch): Int32Array {
  const result = new Int32Array(tokenCount(microBatch));
  let next = 0;
  for (const { tokens, startPosition } of microBatch.slices) {
    if (from === 'token') result.set(tokens, next);
    else for (let i = 0; i < tokens.length; i++) result[next + i] = startPosition + i + offset;
    next += tokens.length;
  }
  return result;
}

/** The tables of one micro-batch as tensors over one run of int32 words. */
export interface ControlTables {
  readonly firstWord: number;
  readonly words: number;
  /** Tables with the same first word and layout are the same tensors, of the same sizes. */
  readonly layout: readonly number[];
  /** By page table: that of whole contexts, then one per horizon of the plan. */
  readonly attention: readonly AttentionTables[];
  /** Undefined where no block keeps states. */
  readonly states: StateTables | undefined;
  /** By sequence. */
  readonly lengths: readonly SequenceLength[];
  /** [T] per table of the model. */
  readonly rows: readonly Tensor[];
  /** [T], where blocks ask for the tokens themselves. */
  readonly tokens: Tensor | undefined;
  /** [R] */
  readonly outputs: Tensor;
  /** [R] */
  readonly targets: Tensor;
  readonly sampling: SamplingTables | undefined;
}

/** Where a micro-batch's tables go. */
export interface ControlPlace {
  /** Per table of the model, the row of each token in its look-up. */
  readonly rows: readonly Int32Array[];
  /** Where JavaScript writes them, from `firstWord` on. */
  readonly words: Int32Array;
  readonly firstWord: number;
  /** Where kernels read them, at the same place. */
  readonly memory: Memory;
  readonly pageTokens?: number;
  /** Blocks ask for the tokens themselves. */
  readonly withTokens?: boolean | undefined;
  /** [sequences, words], and which of them is that of the micro-batch's first output. */
  readonly masks?: { readonly all: Tensor; readonly first: number } | undefined;
}

/** Writes a micro-batch's tables at their place; the tensors refer to it. */
export function writeControl(microBatch: MicroBatch, place: ControlPlace): ControlTables {
  const { rows, words, firstWord, memory, pageTokens = PAGE_TOKENS, withTokens = false, masks } = place;
  let next = firstWord;
  const layout: number[] = [];
  const put = (values: ArrayLike<number>, shape: readonly number[] = [values.length]): Tensor => {
    assert(next + values.length <= words.length, 'the control tables hold the pass');
    words.set(values, next);
    const result = tensor(memory, next * DTYPE_BYTES.i32, 'i32', shape);
    next += values.length;
    layout.push(values.length);
    return result;
  };
  const positions: number[] = [];
  const sequences: number[] = [];
  let [maxContextTokens, entries] = [0, 0];
  for (const slice of microBatch.slices) {
    const context = slice.startPosition + slice.tokens.length;
    sequences.push(positions.length, slice.tokens.length, context, entries);
    for (let position = slice.startPosition; position < context; position++) positions.push(position);
    entries += pagesFor(context, pageTokens);
    maxContextTokens = Math.max(maxContextTokens, context);
  }
  const tables = Array.from({ length: 1 + (microBatch.slices[0]?.latestPages?.length ?? 0) }, (_, table) =>
    pageTable(microBatch, table, entries, pageTokens),
  );
  // What varies in length comes last.
  const sequenceTable = put(sequences, [microBatch.slices.length, 4]);
  const stateSlots = microBatch.slices.flatMap(({ stateSlot }) => stateSlot ?? []);
  const states = stateSlots.length > 0 ? { sequences: sequenceTable, slots: put(stateSlots) } : undefined;
  const slotTables = tables.map(({ slots }) => put(slots));
  const positionTable = put(positions);
  const rowTensors = rows.map((indices) => put(indices));
  const tokens = withTokens ? put(tableRows('token', 0, microBatch)) : undefined;
  const outputs = put(microBatch.outputs);
  const targets = put(microBatch.targets ?? new Int32Array(microBatch.outputs.length));
  const mostContextTokens = roundUp(maxContextTokens, STABLE_STEPS);
  layout.push(mostContextTokens);
  const attention = tables.map(({ pages }, table) => ({
    sequences: sequenceTable,
    pages: put(pages),
    slots: present(slotTables[table], 'slots'),
    positions: positionTable,
    tokens,
    maxContextTokens: mostContextTokens,
  }));
  const lengths = microBatch.slices.map(({ tokens, startPosition, knownTokens }) => ({
    tokens: tokens.length,
    knownTokens: knownTokens ?? startPosition + tokens.length,
  }));
  const sampling = microBatch.sampling && putSampling(microBatch.sampling, put, masks);
  const written = next - firstWord;
  return {
    firstWord,
    words: written,
    layout,
    attention,
    states,
    lengths,
    rows: rowTensors,
    tokens,
    outputs,
    targets,
    sampling,
  };
}

/** The slice's pages in one table. */
export function pagesIn({ pages, latestPages }: SequenceSlice, table: number): PageRun {
  return table === 0 ? { firstPage: 0, pages } : present(latestPages?.[table - 1], 'pages of a horizon');
}

/** @param entries of all slices; those of pages that nobody reads any more are 0 */
function pageTable({ slices }: MicroBatch, table: number, entries: number, pageTokens: number) {
  const slots: number[] = [];
  const pages = new Int32Array(roundUp(entries, STABLE_STEPS));
  let first = 0;
  for (const slice of slices) {
    const context = slice.startPosition + slice.tokens.length;
    const { firstPage, pages: own } = pagesIn(slice, table);
    const end = pagesFor(context, pageTokens);
    assert(firstPage + own.length >= end, 'a sequence has pages for all its positions');
    for (let position = slice.startPosition; position < context; position++) {
      const page = present(own[Math.floor(position / pageTokens) - firstPage], 'page');
      slots.push(page * pageTokens + (position % pageTokens));
    }
    for (let index = firstPage; index < end; index++) {
      pages[first + index] = present(own[index - firstPage], 'page');
    }
    first += end;
  }
  return { slots, pages };
}

function putSampling(
  sampling: readonly SamplingRow[],
  put: (values: ArrayLike<number>, shape?: readonly number[]) => Tensor,
  masks: ControlPlace['masks'],
): SamplingTables {
  const settings = Float32Array.from(
    sampling.flatMap((row) => [row.temperature, row.topP, row.minP, row.repetitionPenalty]),
  );
  let entries = 0;
  const draws = sampling.flatMap(({ topK, randomBits, history }) => {
    entries += history.length;
    return [topK, randomBits | 0, entries - history.length, history.length];
  });
  const history = new Int32Array(entries);
  sampling.reduce((at, row) => {
    history.set(row.history, at);
    return at + row.history.length;
  }, 0);
  return {
    // The same words, seen as floats by the kernel.
    settings: { ...put(new Int32Array(settings.buffer), [sampling.length, 4]), dtype: 'f32' },
    draws: put(draws, [sampling.length, 4]),
    history: put(history),
    ...(sampling.some(({ added }) => added) ? { added: putAdded(sampling, put) } : {}),
    ...(sampling.some(({ allowed }) => allowed) ? { allowed: putAllowed(sampling, put, masks) } : {}),
  };
}

function putAdded(
  sampling: readonly SamplingRow[],
  put: (values: ArrayLike<number>, shape?: readonly number[]) => Tensor,
): AddedLogits {
  const rows = sampling.map(({ added }) => added ?? NOTHING_ADDED);
  const count = rows.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const [tokens, values] = [new Int32Array(count), new Float32Array(count)];
  let first = 0;
  const entriesOf = rows.flatMap((row) => {
    tokens.set(row.tokens, first);
    values.set(row.values, first);
    first += row.tokens.length;
    return [first - row.tokens.length, row.tokens.length];
  });
  return {
    entriesOf: put(entriesOf, [rows.length, 2]),
    tokens: put(tokens),
    values: { ...put(new Int32Array(values.buffer)), dtype: 'f32' },
  };
}

const NOTHING_ADDED: AddedToTokens = { tokens: new Int32Array(0), values: new Float32Array(0) };

function putAllowed(
  sampling: readonly SamplingRow[],
  put: (values: ArrayLike<number>) => Tensor,
  masks: ControlPlace['masks'],
): AllowedTokens {
  const { all, first } = present(masks, 'room for masks');
  return { maskOf: put(sampling.map(({ allowed }, row) => (allowed ? first + row : -1))), masks: all };
}
