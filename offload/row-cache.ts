// Rows of an embedding table on the host: fetched when a token needs them, kept until their slot is wanted again.

import type { DeviceEvent, HostMemory, ReadSpan } from './backend.js';
import { DTYPE_BYTES } from './dtype.js';
import { assert, present } from './errors.js';
import type { RowTable } from './model.js';
import type { Tensor } from './ops.js';
import { rowPlace, rowSlotBytes, type WeightSource } from './weight-source.js';

interface Slot {
  readonly offsetBytes: number;
  /** Look-ups whose kernels may still read it. */
  pins: number;
  loaded: Promise<ReadSpan | undefined>;
}

/** Rows for one micro-batch; `release` once the kernel that reads them has been queued. */
export interface RowLease {
  /** A view in which row r of `indices` begins at element indices[r]: stride 1, since slots hold unaligned rows. */
  readonly table: Tensor;
  readonly indices: Int32Array;
  release(after: DeviceEvent): void;
}

/** Least recently used rows leave first. Capacity is fixed; a look-up never needs more than `slotCount` rows. */
export class RowCache {
  readonly #table: RowTable;
  readonly #source: WeightSource;
  readonly #memory: HostMemory;
  readonly #onRead: (span: ReadSpan) => void;
  readonly #slots = new Map<number, Slot>(); // by row, least recently used first
  #unused: number[];
  #lastUse: Promise<void> = Promise.resolve();

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
    const distinct = new Set(rows);
    const wanted = new Map<number, Slot>();
    const missing: { row: number; slot: Slot }[] = [];
    for (const row of distinct) {
      let slot = this.#slots.get(row);
      if (slot) {
        this.#slots.delete(row);
      } else {
        slot = { offsetBytes: await this.#takeSlot(), pins: 0, loaded: Promise.resolve(undefined) };
        missing.push({ row, slot });
      }
      slot.pins++;
      this.#slots.set(row, slot);
      wanted.set(row, slot);
    }
    if (missing.length > 0) this.#load(missing);
    await Promise.all([...wanted.values()].map((slot) => slot.loaded));
    return this.#lease(rows, wanted);
  }

  #load(missing: readonly { row: number; slot: Slot }[]): void {
    const reads = missing.map(({ row, slot }) => ({ row, slotOffset: slot.offsetBytes }));
    const loaded = this.#source.readRows(this.#table, reads, this.#memory);
    loaded.then(this.#onRead, () => undefined);
    for (const { slot } of missing) slot.loaded = loaded;
  }

  #lease(rows: Int32Array, slots: ReadonlyMap<number, Slot>): RowLease {
    const elementBytes = DTYPE_BYTES[this.#table.dtype];
    // Every row of a table has the same offset modulo the element size.
    const misalignment = this.#table.extent.fileOffset % elementBytes;
    const indices = rows.map((row) => {
      const slot = present(slots.get(row), `row ${row}`);
      return (slot.offsetBytes + rowPlace(this.#table, row).offsetInSlot - misalignment) / elementBytes;
    });
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
        const unpin = () => {
          for (const slot of slots.values()) slot.pins--;
        };
        this.#lastUse = after.reached().then(unpin, unpin);
      },
    };
  }

  /** A free slot: unused, or the least recently used one that no queued kernel reads. */
  async #takeSlot(): Promise<number> {
    for (;;) {
      const unused = this.#unused.pop();
      if (unused !== undefined) return unused;
      for (const [row, slot] of this.#slots) {
        if (slot.pins > 0) continue;
        await slot.loaded.catch(() => undefined);
        if (slot.pins > 0) continue;
        this.#slots.delete(row);
        return slot.offsetBytes;
      }
      const use = this.#lastUse;
      await use;
      assert(
        use !== this.#lastUse || [...this.#slots.values()].some((slot) => slot.pins === 0),
        'a row can leave',
      );
    }
  }
}
