// Rows of embedding tables that stay in DRAM: few at least, and more of what is left where all layers rest there.

import { present } from '../errors.js';
import type { ModelSpec } from '../model/model.js';
import { rowSlotBytes, TABLE_BUFFERS_BYTES, tableHostBytes, tokenTables } from '../model/table-rows.js';
import { counted, MiB } from '../units.js';
import { allocatedBytes } from './device-costs.js';
import { type Draft, total } from './draft.js';
import type { PlanInput } from './input.js';
import type { PlanTerm } from './plan.js';

const ROWS_TERM = 'embedding rows';
const ROWS_REASON = 'recently used rows of the tables, in aligned slots';
/** Tokens of texts repeat: most of what a text needs is among so many. Tables of positions have hardly more rows. */
const KEPT_ROWS = 2048;
/** Beyond the rows of a pass, of all tables together: locking more memory would delay the start. */
const MOST_KEPT_BYTES = 64 * MiB;
const KEPT_SHARE = 1 / 16;

/** By table: twice the rows of a micro-batch, or as many as it has. */
export function fewestRowsBytes({ tables }: ModelSpec, microBatchTokens: number): number[] {
  return tables.map(
    (table) => Math.min(table.rowCount, Math.max(2 * microBatchTokens, 64)) * rowSlotBytes(table),
  );
}

export function rowsTerm(rowCacheBytes: readonly number[], reason = ROWS_REASON): PlanTerm {
  return { tier: 'dram', name: ROWS_TERM, bytes: total(rowCacheBytes), reason };
}

/**
 * More rows, where all layers rest in DRAM and its budget leaves `freeBytes`: those of a whole pass, since else a long
 * prompt's rows push each other out and the drive is read at every pass; and, in a small share of what is then left,
 * KEPT_ROWS, so that a step of decoding seldom waits for the drive.
 */
export function keepMoreRows({ model, workload }: PlanInput, draft: Draft, freeBytes: number): Draft {
  const { sizes } = draft;
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
  const slots = model.tables.map((table, index) => (rowCacheBytes[index] ?? 0) / rowSlotBytes(table));
  const reason = `${slots.join(' + ')} ${ROWS_REASON}: all of a pass (${counted(sizes.passTokens, 'token')}), and as many as a little of what is left holds`;
  const term = rowsTerm(rowCacheBytes, reason);
  return {
    ...draft,
    sizes: { ...sizes, rowCacheBytes },
    terms: draft.terms.map((one) => (one.name === ROWS_TERM ? term : one)),
  };
}

const TABLES_TERM = 'embedding tables';

/** Where devices with every layer have `freeBytes` left for it, the tables of tokens rest there too: steps wait for no row. */
export function restTables({ model, options }: PlanInput, draft: Draft, freeBytes: number): Draft {
  const tables = tokenTables(model);
  const bytes = total(tables.map(({ extent }) => allocatedBytes(options, extent.sizeBytes)));
  if (tables.length === 0 || bytes > freeBytes || draft.sizes.kvBuffers.count > 0) return draft;
  const reason = `${counted(tables.length, 'table')} of tokens, so that the next step begins on the device; read behind the layers`;
  const buffers: PlanTerm = {
    tier: 'dram',
    name: 'table buffers',
    bytes: TABLE_BUFFERS_BYTES,
    reason: 'pieces of the tables pass through them once, on their way to rest on the device',
  };
  return {
    ...draft,
    tablesRest: 'gpu',
    terms: [...draft.terms, { tier: 'gpu', name: TABLES_TERM, bytes, reason }, buffers],
  };
}

/**
 * The same in DRAM, where devices have every layer but for experts in slots, or no room for tables: what a step of few tokens wants
 * of a table is little for a link.
 */
export function restTablesInDram(
  { model, options, workload }: PlanInput,
  draft: Draft,
  freeBytes: number,
): Draft {
  const { sizes, slots, onDevices, inShards, stages } = draft;
  const waitsForNone = (slots ?? onDevices.every((rests) => rests)) && !inShards && !stages;
  const isDone = options.computesInPlace || draft.tablesRest || workload.output !== 'tokens';
  if (!waitsForNone || isDone || sizes.kvBuffers.count > 0) return draft;
  const tables = tokenTables(model);
  const bytes = total(tables.map(tableHostBytes));
  if (tables.length === 0 || bytes > freeBytes) return draft;
  const reason = `${counted(tables.length, 'table')} of tokens, where kernels read rows, so that the next step begins on the device; read behind the layers`;
  return {
    ...draft,
    tablesRest: 'dram',
    terms: [...draft.terms, { tier: 'dram', name: TABLES_TERM, bytes, reason }],
  };
}
