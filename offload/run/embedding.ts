// The embedding of a micro-batch: the rows of its tokens are looked up where they rest, then summed on the device.

import { present } from '../errors.js';
import type { ModelSpec, RowTable } from '../model/model.js';
import { checkRows } from '../model/table-rows.js';
import type { Tensor } from '../port/ops.js';
import { rows } from '../port/tensor.js';
import type { RowCache, RowLease } from '../stream/row-cache.js';
import { type MicroBatch, tableRows } from './pass.js';
import type { DeviceWork, Running } from './running.js';

/**
 * Rows of a micro-batch, per table: at once where all are in memory. Rejects when no look-up is under way any more, and
 * holds none then.
 * @param resting finds tables that rest on the device
 */
export function lookUpRows(
  { tables }: ModelSpec,
  rowCaches: readonly RowCache[],
  microBatch: MicroBatch,
  resting: (table: RowTable) => Tensor | undefined,
): RowLease[] | Promise<RowLease[]> {
  const lookups = tables.map((table, index) => {
    const rowsOf = tableRows(table.rowsFrom, table.rowOffset, microBatch);
    const there = resting(table);
    return there ? leaseOf(table, there, rowsOf) : present(rowCaches[index], 'row cache').lookup(rowsOf);
  });
  return lookups.every(isThere) ? lookups : allOrNone(lookups);
}

function leaseOf(table: RowTable, there: Tensor, indices: Int32Array): RowLease {
  checkRows(table, indices);
  return { table: there, indices, release: () => undefined };
}

/** Queues that tokens which the device has drawn become the rows that kernels look up, where tables have their place. */
export function queueDrawn({ model, state }: DeviceWork, { control, firstToken, tokens }: Running): void {
  const drawn = rows(state.ids, firstToken, tokens);
  const become = (to: Tensor) => state.device.compute.launch({ op: 'token_rows', rows: to, tokens: drawn });
  for (const [index, { rowsFrom }] of model.tables.entries()) {
    if (rowsFrom === 'token') become(present(control.rows[index], 'rows'));
  }
  if (control.tokens) become(control.tokens);
}

export function queueEmbedding(
  { model, state }: DeviceWork,
  { control, firstToken, tokens }: Running,
  leases: readonly RowLease[],
): void {
  state.ops.enter(undefined, undefined);
  const find = (key: string) => {
    const index = model.tables.findIndex((table) => table.key === key);
    return {
      table: present(leases[index], `table ${key}`).table,
      rows: present(control.rows[index], 'rows'),
    };
  };
  model.forward.embed(state.ops, state.fixed, find, rows(state.hidden, firstToken, tokens));
}

function isThere(lookup: RowLease | Promise<RowLease>): lookup is RowLease {
  return !(lookup instanceof Promise);
}

async function allOrNone(lookups: readonly (RowLease | Promise<RowLease>)[]): Promise<RowLease[]> {
  const settled = await Promise.allSettled(lookups);
  const leases = settled.flatMap((lookup) => (lookup.status === 'fulfilled' ? [lookup.value] : []));
  const failure = settled.find((lookup) => lookup.status === 'rejected');
  if (!failure) return leases;
  for (const lease of leases) lease.release();
  throw failure.reason;
}
