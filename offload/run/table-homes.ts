// Where embedding tables come to rest: on every device, or once in DRAM, where kernels of all devices read them.

import { present } from '../errors.js';
import type { RowTable } from '../model/model.js';
import {
  extentOf,
  TABLE_BUFFERS_BYTES,
  type TablePiece,
  tableBeginsAt,
  tableHostBytes,
} from '../model/table-rows.js';
import type { Plan } from '../plan/plan.js';
import {
  type Backend,
  type Device,
  type DeviceEvent,
  type HostMemory,
  READ_ALIGNMENT_BYTES,
  type ReadSpan,
} from '../port/backend.js';
import type { Memory, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import type { WeightSource } from '../stream/weight-source.js';
import { roundDown } from '../units.js';

export interface TableHome {
  /** [rows, columns]; undefined for a table that it does not have. */
  find(device: Device, table: RowTable): Tensor | undefined;
  /** Pieces come in their order, one at a time. Rejects where they cannot be read, or kernels cannot reach them. */
  bring(piece: TablePiece): Promise<ReadSpan>;
  /** Resolves when nothing that was brought is on its way any more. */
  settled(): Promise<void>;
}

export interface TableHomeOptions {
  readonly backend: Backend;
  readonly tables: readonly RowTable[];
  readonly source: WeightSource;
  readonly tier: Exclude<Plan['tablesRest'], undefined>;
}

export function openTableHome(options: TableHomeOptions): TableHome {
  return options.tier === 'gpu' ? new TablesOnDevices(options) : new TablesInDram(options);
}

interface Buffer {
  readonly memory: HostMemory;
  /** Copies that read it. */
  leaves: readonly DeviceEvent[];
}

class TablesOnDevices implements TableHome {
  readonly #devices: readonly Device[];
  readonly #source: WeightSource;
  /** By table and device. */
  readonly #memories: ReadonlyMap<RowTable, readonly Memory[]>;
  /** One is read into while the other goes up. */
  readonly #buffers: readonly Buffer[];
  #turn = 0;

  constructor({ backend, tables, source }: TableHomeOptions) {
    const { devices } = backend;
    this.#devices = devices;
    this.#source = source;
    this.#memories = new Map(
      tables.map((table) => [table, devices.map((device) => device.allocate(table.extent.sizeBytes))]),
    );
    this.#buffers = [0, 1].map(() => ({
      memory: backend.allocateHost(TABLE_BUFFERS_BYTES / 2, 'control'),
      leaves: [],
    }));
  }

  find(device: Device, table: RowTable): Tensor | undefined {
    const memory = this.#memories.get(table)?.[this.#devices.indexOf(device)];
    return memory && tableIn(memory, 0, table);
  }

  async bring(piece: TablePiece): Promise<ReadSpan> {
    const { table, firstByte, sizeBytes } = piece;
    const buffer = present(this.#buffers[this.#turn++ % this.#buffers.length], 'buffer');
    await reached(buffer.leaves);
    const { offsetBytes, span } = await this.#source.readExtent(extentOf(piece), buffer.memory);
    buffer.leaves = this.#devices.map(({ fetch }, device) => {
      const to = present(this.#memories.get(table)?.[device], 'memory');
      fetch.copy(to, firstByte, buffer.memory, offsetBytes, sizeBytes);
      return fetch.record();
    });
    return span;
  }

  async settled(): Promise<void> {
    for (const { leaves } of this.#buffers) await reached(leaves);
  }
}

/** Each lies as in its file, so that it is read in place. */
class TablesInDram implements TableHome {
  readonly #source: WeightSource;
  readonly #memories: ReadonlyMap<RowTable, HostMemory>;

  constructor({ backend, tables, source }: TableHomeOptions) {
    this.#source = source;
    this.#memories = new Map(
      tables.map((table) => [table, backend.allocateHost(tableHostBytes(table), 'table')]),
    );
  }

  find(_device: Device, table: RowTable): Tensor | undefined {
    const memory = this.#memories.get(table);
    return memory && tableIn(memory, tableBeginsAt(table), table);
  }

  async bring(piece: TablePiece): Promise<ReadSpan> {
    const { table, firstByte } = piece;
    // The first piece brings what lies before it with it; the others begin where a read may.
    const at = roundDown(tableBeginsAt(table) + firstByte, READ_ALIGNMENT_BYTES);
    const memory = present(this.#memories.get(table), 'memory');
    const { span } = await this.#source.readExtent(extentOf(piece), memory, at);
    return span;
  }

  async settled(): Promise<void> {}
}

function tableIn(memory: Memory, offsetBytes: number, { dtype, rowCount, columns }: RowTable): Tensor {
  return tensor(memory, offsetBytes, dtype, [rowCount, columns]);
}

async function reached(events: readonly DeviceEvent[]): Promise<void> {
  for (const event of events) await event.reached();
}
