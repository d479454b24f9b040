// Embedding tables that come to rest on devices: each is read once, behind the layers, and its rows are found there from then on.

import { present } from '../errors.js';
import type { ModelSpec, RowTable } from '../model/model.js';
import { TABLE_BUFFERS_BYTES, TABLE_PIECE_BYTES, tokenTables } from '../model/table-rows.js';
import type { Backend, Device, DeviceEvent, HostMemory } from '../port/backend.js';
import type { Memory, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import type { WeightSource } from '../stream/weight-source.js';
import type { Trace } from '../trace.js';

export interface DeviceTablesOptions {
  readonly backend: Backend;
  readonly devices: readonly Device[];
  readonly model: ModelSpec;
  readonly source: WeightSource;
  readonly trace: Trace;
}

/** Bytes of a table, in the order in which they come. */
interface Piece {
  readonly table: number;
  readonly firstByte: number;
  readonly sizeBytes: number;
}

interface Buffer {
  readonly memory: HostMemory;
  /** Copies that read it. */
  leaves: readonly DeviceEvent[];
}

/** The tables whose rows are tokens'. Those of positions are small, and their rows known ahead. */
export class DeviceTables {
  readonly #devices: readonly Device[];
  readonly #source: WeightSource;
  readonly #trace: Trace;
  readonly #tables: readonly RowTable[];
  /** By device and table. */
  readonly #memories: readonly (readonly Memory[])[];
  readonly #buffers: readonly Buffer[];
  readonly #pieces: readonly Piece[];
  #next = 0;
  #isStopped = true;
  #coming: Promise<void> = Promise.resolve();
  #areThere = false;
  #hasFailed = false;

  constructor({ backend, devices, model, source, trace }: DeviceTablesOptions) {
    this.#devices = devices;
    this.#source = source;
    this.#trace = trace;
    this.#tables = tokenTables(model);
    this.#memories = devices.map((device) =>
      this.#tables.map(({ extent }) => device.allocate(extent.sizeBytes)),
    );
    this.#buffers = [0, 1].map(() => ({
      memory: backend.allocateHost(TABLE_BUFFERS_BYTES / 2, 'control'),
      leaves: [],
    }));
    this.#pieces = this.#tables.flatMap(({ extent }, table) => piecesOf(extent.sizeBytes, table));
  }

  /** All of them are. */
  get areThere(): boolean {
    return this.#areThere;
  }

  /** Where a table lies on a device, [rows, columns]; undefined while it does not, and for others. */
  find(device: Device, table: RowTable): Tensor | undefined {
    const index = this.#areThere ? this.#tables.indexOf(table) : -1;
    const memory = this.#memories[this.#devices.indexOf(device)]?.[index];
    return memory && tensor(memory, 0, table.dtype, [table.rowCount, table.columns]);
  }

  /** Goes on to read in the background, where something is missing. */
  goOn(): void {
    if (this.#areThere || this.#hasFailed || !this.#isStopped) return;
    this.#isStopped = false;
    this.#coming = this.#bring();
  }

  /** Nothing is read or copied any more; never rejects. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#coming;
  }

  /** What cannot be read is told by whoever looks a row up. */
  async #bring(): Promise<void> {
    try {
      for (; !this.#isStopped && this.#next < this.#pieces.length; this.#next++) {
        await this.#bringPiece(present(this.#pieces[this.#next], 'piece'));
      }
      for (const { leaves } of this.#buffers) await reached(leaves);
      this.#areThere = this.#next === this.#pieces.length;
    } catch {
      this.#hasFailed = true;
    }
  }

  async #bringPiece({ table, firstByte, sizeBytes }: Piece): Promise<void> {
    const buffer = present(this.#buffers[this.#next % this.#buffers.length], 'buffer');
    await reached(buffer.leaves);
    const { extent, key } = present(this.#tables[table], 'table');
    const part = { ...extent, fileOffset: extent.fileOffset + firstByte, sizeBytes };
    const { offsetBytes, span } = await this.#source.readExtent(part, buffer.memory);
    this.#trace.add({ lane: 'rows', owner: 'drive', name: key, ...span });
    buffer.leaves = this.#devices.map(({ fetch }, index) => {
      const to = present(this.#memories[index]?.[table], 'memory');
      fetch.copy(to, firstByte, buffer.memory, offsetBytes, sizeBytes);
      return fetch.record();
    });
  }
}

function piecesOf(sizeBytes: number, table: number): Piece[] {
  return Array.from({ length: Math.ceil(sizeBytes / TABLE_PIECE_BYTES) }, (_, index) => {
    const firstByte = index * TABLE_PIECE_BYTES;
    return { table, firstByte, sizeBytes: Math.min(TABLE_PIECE_BYTES, sizeBytes - firstByte) };
  });
}

async function reached(events: readonly DeviceEvent[]): Promise<void> {
  for (const event of events) await event.reached();
}
