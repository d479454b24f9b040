// Operands of layers with a state: views of fused projections, and tables of ragged batches.

import type { DType } from '../../offload/port/dtype.js';
import type { Op, StateTables, Tensor } from '../../offload/port/ops.js';
import { columns, heads } from '../../offload/port/tensor.js';
import type { Workbench } from './workbench.js';

/** Slots of states, more than sequences. */
export const SLOTS = 7;

type Scan = Extract<Op, { op: 'state_scan' }>;
export type ScanWithoutTables = Omit<Scan, 'tables'>;

/** What Gated DeltaNet and Mamba 2 ask for. */
export const RULES = {
  'delta rule': ({ step }: ScanWithoutTables) => ({
    beta: step,
    skip: null,
    normEps: 1e-6,
    queryScale: 0.25,
  }),
  plain: (_: ScanWithoutTables) => ({ beta: null, normEps: 0, minStep: 0.01, maxStep: 3 }),
} as const;

export interface ScanDims {
  readonly tokens: number;
  readonly groups: number;
  readonly count: number;
  readonly depth: number;
  readonly length: number;
  readonly dtype: DType;
  readonly activation: DType;
}

/** q, k and v are columns of one row, as a convolution leaves them. */
export function scanOf(bench: Workbench, dims: ScanDims): ScanWithoutTables {
  const { tokens, groups, count, depth, length, dtype, activation } = dims;
  const mixed = bench.activation([tokens, 2 * groups * depth + count * length], 1, activation);
  return {
    op: 'state_scan',
    out: bench.activation([tokens, count, length], 1, activation),
    q: heads(columns(mixed, 0, groups * depth), groups, depth),
    k: heads(columns(mixed, groups * depth, groups * depth), groups, depth),
    v: heads(columns(mixed, 2 * groups * depth, count * length), count, length),
    step: bench.activation([tokens, groups, count / groups], 2),
    beta: null,
    stepBias: bench.vector(dtype, count),
    decay: bench.vector(dtype, count),
    skip: bench.vector(dtype, count),
    state: bench.activation([SLOTS, count, depth, length]),
    minStep: 0,
    maxStep: Number.POSITIVE_INFINITY,
    normEps: 0,
    queryScale: 1,
  };
}

/** Groups of one row, with something of others between them. */
export function grouped(
  bench: Workbench,
  [tokens = 0, groups = 0, depth = 0]: readonly number[],
  dtype: DType,
): Tensor {
  const spacing = depth + 3;
  return heads(bench.activation([tokens, groups * spacing], 1, dtype), groups, depth, 2, spacing);
}

/** No two sequences of a batch have one slot, and their order is not that of the slots. */
export const slotOf = (sequence: number) => (sequence * 3 + 4) % SLOTS;

export function tablesOf(
  bench: Workbench,
  batch: readonly (readonly [number, number])[],
): { readonly tables: StateTables; readonly tokens: number } {
  let first = 0;
  const rows = batch.map(([tokens, before]) => {
    first += tokens;
    return [first - tokens, tokens, tokens + before, 0];
  });
  const tables = { sequences: bench.table(rows), slots: bench.index(batch.map((_, s) => slotOf(s))) };
  return { tables, tokens: first };
}
