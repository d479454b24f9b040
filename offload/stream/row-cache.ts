// Rows of an embedding table on the host: fetched when a token needs them, kept until their slot is wanted again.

import { assert, present } from '../errors.js';
import type { RowTable } from '../model/model.js';
import { checkRows, rowPlace, rowSlotBytes } from '../model/table-rows.js';
import type { DeviceEvent, HostMemory, ReadSpan } from '../port/backend.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type { Tensor } from '../port/ops.js';
import type { WeightSource } from './weight-source.js';

interface Slot {
  readonly row: number;
  readonly offsetBytes: number;
  /** Where the row begins, in elements of the leases' views. */
  readonly firstElement: number;
  /** The last look-up that held it. */
  lookup: number;
  /** Look-ups whose kernels may still read it. */
  pins: number;
}

/** Slots that a queued kernel reads. */
interface Use {
  readonly until: DeviceEvent;
  readonly slots: readonly Slot[];
}

/** Rows of positions that are read ahead of a sequence at most: a read of many takes hardly longer than one of a few. */
const AHEAD_ROWS = 32;

/** Rows for one micro-batch; `release` once the kernel that reads them has been queued. */
export interface RowLease {
  /** A view in which row r of `indices` begins at element indices[r]: stride 1, since slots hold unaligned rows. */
  readonly table: Tensor;
  readonly indices: Int32Array;
  /** Rows may leave once `after` is reached; at once without it. */
  release(after?: DeviceEvent): void;
}

/**
 * Least recently used rows leave first. Capacity is fixed; a look-up never needs more than `slotCount` rows.
 * One look-up at a time, but many leases may be out, released in any order. Of a table of positions the rows that
 * follow are read in the background, so that a sequence that goes on token by token finds them.
 */
export class RowCache {
  readonly #table: RowTable;
  readonly #source: WeightSource;
  readonly #memory: HostMemory;
  readonly #onRead: (span: ReadSpan) => void;
  readonly #slotCount: number;
  /**
   * By row: what is in memory, and what the look-up that is under way reads. An array, since it is looked into for
   * every token.
   */
  readonly #slots: (Slot | undefined)[];
  readonly #idle = new Set<Slot>(); // those that nobody holds, least recently held first
  readonly #uses = new Set<Use>();
  readonly #unused: number[];
  #lookups = 0;
  /** The read of rows that nobody has asked for yet; its slots are in none of the above. */
  #ahead: Promise<void> | undefined;

  constructor(table: RowTable, source: WeightSource, memory: HostMemory, onRead: (span: ReadSpan) => void) {
    this.#table = table;
    this.#source = source;
    this.#memory = memory;
    this.#onRead = onRead;
    this.#slots = new Array<Slot | undefined>(table.rowCount).fill(undefined);
    const slotBytes = rowSlotBytes(table);
    this.#slotCount = Math.floor(memory.sizeBytes / slotBytes);
    assert(this.#slotCount > 0, 'the row cache has a slot');
    this.#unused = Array.from(
      { length: this.#slotCount },
      (_, index) => (this.#slotCount - 1 - index) * slotBytes,
    );
  }

  /**
   * At once where all rows are in memory, else when they are. Rejects with an OperatingError when a read fails, or the
   * table has no such row.
   */
  lookup(rows: Int32Array): RowLease | Promise<RowLease> {
    for (const use of this.#uses) if (!Number.isNaN(use.until.timeMs)) this.#endUse(use);
    return rows.every((row) => this.#slots[row]) ? this.#lease(rows) : this.#fetch(rows);
  }

  /** Resolves when nothing is read ahead any more; never rejects. Between look-ups. */
  async idle(): Promise<void> {
    await this.#ahead;
  }

  async #fetch(rows: Int32Array): Promise<RowLease> {
    // Nothing is known of a row that the table lacks, so none passes the look-up above.
    checkRows(this.#table, rows);
    // It may bring some of them. Where it fails, they are read here, and the failure is reported.
    await this.#ahead;
    const known = this.#hold(rows);
    const missing: Slot[] = [];
    try {
      for (const row of rows) {
        if (this.#slots[row]) continue;
        // Waiting for what is there costs a step of many sequences a part of a millisecond.
        missing.push(this.#place(row, this.#freeSlot() ?? (await this.#takeSlot())));
      }
      if (missing.length > 0) this.#onRead(await this.#read(missing));
      return this.#lease(rows);
    } catch (error) {
      for (const { row, offsetBytes } of missing) {
        this.#slots[row] = undefined;
        this.#unused.push(offsetBytes);
      }
      throw error;
    } finally {
      this.#unpin(known);
    }
  }

  #place(row: number, offsetBytes: number): Slot {
    const start = offsetBytes + rowPlace(this.#table, row).offsetInSlot - this.#misalignment;
    const firstElement = start / DTYPE_BYTES[this.#table.dtype];
    const slot = { row, offsetBytes, firstElement, lookup: 0, pins: 0 };
    this.#slots[row] = slot;
    return slot;
  }

  /** Every row of a table has the same offset modulo the element size. */
  get #misalignment(): number {
    return this.#table.extent.fileOffset % DTYPE_BYTES[this.#table.dtype];
  }

  #read(places: readonly { readonly row: number; readonly offsetBytes: number }[]): Promise<ReadSpan> {
    const reads = places.map(({ row, offsetBytes }) => ({ row, slotOffset: offsetBytes }));
    return this.#source.readRows(this.#table, reads, this.#memory);
  }

  /** Those that are known, once each: they stay until they are unpinned. */
  #hold(rows: Int32Array): Slot[] {
    const held: Slot[] = [];
    const lookup = ++this.#lookups;
    for (const row of rows) {
      const slot = this.#slots[row];
      if (!slot || slot.lookup === lookup) continue;
      slot.lookup = lookup;
      slot.pins++;
      this.#idle.delete(slot);
      held.push(slot);
    }
    return held;
  }

  #unpin(slots: readonly Slot[]): void {
    for (const slot of slots) if (--slot.pins === 0) this.#idle.add(slot);
  }

  #endUse(use: Use): void {
    if (this.#uses.delete(use)) this.#unpin(use.slots);
  }

  /** A lease of rows that are all in memory. */
  #lease(rows: Int32Array): RowLease {
    const slots = this.#hold(rows);
    if (this.#table.rowsFrom === 'position') this.#readAhead(slots);
    const elementBytes = DTYPE_BYTES[this.#table.dtype];
    const misalignment = this.#misalignment;
    const { columns, dtype } = this.#table;
    const starts = Math.floor((this.#memory.sizeBytes - misalignment) / elementBytes) - columns + 1;
    return {
      table: {
        memory: this.#memory,
        offsetBytes: misalignment,
        dtype,
        shape: [starts, columns],
        strides: [1, 1],
      },
      indices: rows.map((row) => present(this.#slots[row], 'a held row').firstElement),
      release: (until) => {
        if (until) this.#uses.add({ until, slots });
        else this.#unpin(slots);
      },
    };
  }

  /**
   * Reads on behind the last row of each run in `held` when half of what it may have ahead is used up. All runs
   * together have half of the slots, so that they do not take them from each other; none is waited for.
   */
  #readAhead(held: readonly Slot[]): void {
    if (this.#ahead) return;
    const ends = held.filter(({ row }) => this.#slots[row + 1]?.lookup !== this.#lookups);
    const reach = Math.min(AHEAD_ROWS, Math.floor(this.#slotCount / (2 * ends.length)));
    const places = new Map<number, { readonly row: number; readonly offsetBytes: number }>();
    for (const { row: end } of ends) {
      const last = Math.min(end + reach, this.#table.rowCount - 1);
      if (this.#slots[Math.min(end + Math.ceil(reach / 2), last)]) continue;
      for (let row = end + 1; row <= last; row++) {
        if (this.#slots[row] || places.has(row)) continue;
        const offsetBytes = this.#freeSlot();
        if (offsetBytes === undefined) break;
        places.set(row, { row, offsetBytes });
      }
    }
    if (places.size === 0) return;
    this.#ahead = this.#bring([...places.values()]).then(() => {
      this.#ahead = undefined;
    });
  }

  /** A failure is left to the look-up that wants such a row: it reads again. */
  async #bring(places: readonly { readonly row: number; readonly offsetBytes: number }[]): Promise<void> {
    try {
      this.#onRead(await this.#read(places));
      for (const { row, offsetBytes } of places) this.#idle.add(this.#place(row, offsetBytes));
    } catch {
      this.#unused.push(...places.map(({ offsetBytes }) => offsetBytes));
    }
  }

  /** Unused, or the least recently used one that no queued kernel reads; undefined where there is none. */
  #freeSlot(): number | undefined {
    const unused = this.#unused.pop();
    if (unused !== undefined) return unused;
    const [idle] = this.#idle;
    if (!idle) return undefined;
    this.#idle.delete(idle);
    this.#slots[idle.row] = undefined;
    return idle.offsetBytes;
  }

  async #takeSlot(): Promise<number> {
    for (;;) {
      const free = this.#freeSlot();
      if (free !== undefined) return free;
      assert(this.#uses.size > 0, 'a row can leave');
      // A device that failed reads nothing any more.
      await Promise.race([...this.#uses].map((use) => endOf(use).then(() => this.#endUse(use))));
    }
  }
}

async function endOf({ until }: Use): Promise<void> {
  await until.reached().catch(() => undefined);
}
