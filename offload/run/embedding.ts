// The embedding of a micro-batch: the rows of its tokens are looked up where they rest, then summed on the device.

import { present } from '../errors.js';
import type { ModelSpec } from '../model/model.js';
import { rows } from '../port/tensor.js';
import type { RowCache, RowLease } from '../stream/row-cache.js';
import { type MicroBatch, tableRows } from './pass.js';
import type { DeviceWork, Running } from './running.js';

/**
 * Rows of a micro-batch, per table: at once where all are in memory. Rejects when no look-up is under way any more, and
 * holds none then.
 */
export function lookUpRows(
  { tables }: ModelSpec,
  rowCaches: readonly RowCache[],
  microBatch: MicroBatch,
): RowLease[] | Promise<RowLease[]> {
  const lookups = tables.map((table, index) =>
    present(rowCaches[index], 'row cache').lookup(tableRows(table.rowsFrom, table.rowOffset, microBatch)),
  );
  return lookups.every(isThere) ? lookups : allOrNone(lookups);
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
