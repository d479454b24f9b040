// Rows of an embedding table on the host: fetched when a token needs them, kept until their slot is wanted again.

import type { DeviceEvent, HostMemory, ReadSpan } from './backend.js';
import { DTYPE_BYTES } from './dtype.js';
import { assert } from './errors.js';
import type { RowTable } from './model.js';
import type { Tensor } from './ops.js';
import { rowPlace, rowSlotBytes, type WeightSource } from './weight-source.js';

interface Slot {
  readonly row: number;
  readonly offsetBytes: number;
  /** Where the row begins, in elements of the leases' views. */
  readonly firstElement: number;
  /** The last look-up that wanted it. */
  lookup: number;
  /** Look-ups whose kernels may still read it. */
  pins: number;
  loaded: Promise<unknown>;
  /** Its read failed: it is in the cache no more, and free as soon as nobody holds it. */
  failed: boolean;
}

const LOADED = Promise.resolve();

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
 * One look-up at a time, but many leases may be out, released in any order.
 */
export class RowCache {
  readonly #table: RowTable;
  readonly #source: WeightSource;
  readonly #memory: HostMemory;
  readonly #onRead: (span: ReadSpan) => void;
  readonly #slots = new Map<number, Slot>(); // by row
  readonly #idle = new Set<Slot>(); // those that nobody holds, least recently held first
  readonly #uses = new Set<Promise<void>>(); // of kernels that are queued
  readonly #unused: number[];
  #lookups = 0;

  constructor(table: RowTable, source: WeightSource, memory: HostMemory, onRead: (span: ReadSpan) => void) {
    this.#table = table;
    this.#source = source;
    this.#memory = memory;
    this.#onRead = onRead;
    const slotBytes = rowSlotBytes(table);
    const slotCount = Math.floor(memory.sizeBytes / slotBytes);
    assert(slotCount > 0, 'the row cache has a slot');
    this.#unused = Array.from({ length: slotCount }, (_, index) => (slotCount - 1 - index) * slotBytes);
  }

  /** Resolves when all rows are in memory. Rejects with an OperatingError when a read fails. */
  async lookup(rows: Int32Array): Promise<RowLease> {
    const held: Slot[] = [];
    const missing: Slot[] = [];
    const indices = new Int32Array(rows.length);
    const lookup = ++this.#lookups;
    // Once for every token of a prompt, so nothing here may cost more than a look into a map.
    for (let at = 0; at < rows.length; at++) {
      const row = rows[at] ?? 0;
      let slot = this.#slots.get(row);
      if (slot?.lookup !== lookup) {
        if (!slot) {
          slot = this.#place(row, this.#unused.pop() ?? (await this.#takeSlot()));
          missing.push(slot);
        }
        slot.lookup = lookup;
        slot.pins++;
        this.#idle.delete(slot);
        held.push(slot);
      }
      indices[at] = slot.firstElement;
    }
    if (missing.length > 0) this.#load(missing);
    try {
      await Promise.all(new Set(held.map((slot) => slot.loaded)));
    } catch (error) {
      this.#unpin(held);
      throw error;
    }
    return this.#lease(indices, held);
  }

  #place(row: number, offsetBytes: number): Slot {
    const start = offsetBytes + rowPlace(this.#table, row).offsetInSlot - this.#misalignment;
    const firstElement = start / DTYPE_BYTES[this.#table.dtype];
    const slot = { row, offsetBytes, firstElement, lookup: 0, pins: 0, loaded: LOADED, failed: false };
    this.#slots.set(row, slot);
    return slot;
  }

  /** Every row of a table has the same offset modulo the element size. */
  get #misalignment(): number {
    return this.#table.extent.fileOffset % DTYPE_BYTES[this.#table.dtype];
  }

  #load(missing: readonly Slot[]): void {
    const reads = missing.map(({ row, offsetBytes }) => ({ row, slotOffset: offsetBytes }));
    const loaded = this.#source.readRows(this.#table, reads, this.#memory);
    for (const slot of missing) slot.loaded = loaded;
    loaded.then(this.#onRead, () => {
      // A later look-up reads them again.
      for (const slot of missing) {
        slot.failed = true;
        this.#slots.delete(slot.row);
        if (slot.pins === 0) {
          this.#idle.delete(slot);
          this.#unused.push(slot.offsetBytes);
        }
      }
    });
  }

  #unpin(slots: readonly Slot[]): void {
    for (const slot of slots) {
      slot.pins--;
      if (slot.pins > 0) continue;
      if (slot.failed) this.#unused.push(slot.offsetBytes);
      else this.#idle.add(slot);
    }
  }

  #lease(indices: Int32Array, slots: readonly Slot[]): RowLease {
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
      indices,
      release: (after) => {
        if (!after) {
          this.#unpin(slots);
          return;
        }
        const unpin = () => this.#unpin(slots);
        const use = after
          .reached()
          .then(unpin, unpin)
          .then(() => {
            this.#uses.delete(use);
          });
        this.#uses.add(use);
      },
    };
  }

  /** A free slot: unused, or the least recently used one that no queued kernel reads. */
  async #takeSlot(): Promise<number> {
    for (;;) {
      const unused = this.#unused.pop();
      if (unused !== undefined) return unused;
      const [idle] = this.#idle;
      if (idle) {
        this.#idle.delete(idle);
        // A look-up that failed for another row may have left its read running.
        await idle.loaded.catch(() => undefined);
        if (idle.pins > 0 || idle.failed) continue;
        this.#slots.delete(idle.row);
        return idle.offsetBytes;
      }
      assert(this.#uses.size > 0, 'a row can leave');
      await Promise.race(this.#uses);
    }
  }
}
