// Where embedding tables come to rest: on every device, or once in DRAM, where kernels of all devices read them.

import { present } from '../errors.js';
import type { RowTable } from '../model/model.js';
import { TABLE_BUFFERS_BYTES, type TablePiece, tableBeginsAt, tableHostBytes } from '../model/table-rows.js';
import type { Plan, Tier } from '../plan/plan.js';
import type { Backend, Device, DeviceEvent, HostMemory, ReadSpan } from '../port/backend.js';
import type { Memory, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import type { WeightSource } from '../stream/weight-source.js';

export interface TableHome {
  /** [rows, columns] of the table of this index. */
  find(device: Device, table: number): Tensor;
  /** Pieces come in their order, one at a time. Rejects where they cannot be read, or kernels cannot reach them. */
  bring(piece: TablePiece, table: number): Promise<ReadSpan>;
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
  const homes: Record<Exclude<Tier, 'nvme'>, () => TableHome> = {
    gpu: () => new TablesOnDevices(options),
    dram: () => new TablesInDram(options),
  };
  return homes[options.tier]();
}

interface Buffer {
  readonly memory: HostMemory;
  /** Copies that read it. */
  leaves: readonly DeviceEvent[];
}

class TablesOnDevices implements TableHome {
  readonly #devices: readonly Device[];
  readonly #source: WeightSource;
  readonly #tables: readonly RowTable[];
  /** By device and table. */
  readonly #memories: readonly (readonly Memory[])[];
  /** One is read into while the other goes up. */
  readonly #buffers: readonly Buffer[];
  #turn = 0;

  constructor({ backend, tables, source }: TableHomeOptions) {
    const { devices } = backend;
    this.#devices = devices;
    this.#source = source;
    this.#tables = tables;
    this.#memories = devices.map((device) => tables.map(({ extent }) => device.allocate(extent.sizeBytes)));
    this.#buffers = [0, 1].map(() => ({
      memory: backend.allocateHost(TABLE_BUFFERS_BYTES / 2, 'control'),
      leaves: [],
    }));
  }

  find(device: Device, index: number): Tensor {
    const table = present(this.#tables[index], 'table');
    const memory = present(this.#memories[this.#devices.indexOf(device)]?.[index], 'memory');
    return tableIn(memory, 0, table);
  }

  async bring({ table, firstByte, sizeBytes }: TablePiece, index: number): Promise<ReadSpan> {
    const buffer = present(this.#buffers[this.#turn++ % this.#buffers.length], 'buffer');
    await reached(buffer.leaves);
    const { extent } = table;
    const part = { ...extent, fileOffset: extent.fileOffset + firstByte, sizeBytes };
    const { offsetBytes, span } = await this.#source.readExtent(part, buffer.memory);
    buffer.leaves = this.#devices.map(({ fetch }, device) => {
      const to = present(this.#memories[device]?.[index], 'memory');
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
  readonly #tables: readonly RowTable[];
  readonly #memories: readonly HostMemory[];

  constructor({ backend, tables, source }: TableHomeOptions) {
    this.#source = source;
    this.#tables = tables;
    this.#memories = tables.map((table) => backend.allocateHost(tableHostBytes(table), 'table'));
  }

  find(_device: Device, index: number): Tensor {
    const table = present(this.#tables[index], 'table');
    return tableIn(present(this.#memories[index], 'memory'), tableBeginsAt(table), table);
  }

  async bring({ table, firstByte, sizeBytes }: TablePiece, index: number): Promise<ReadSpan> {
    const { extent } = table;
    const part = { ...extent, fileOffset: extent.fileOffset + firstByte, sizeBytes };
    const at = firstByte === 0 ? 0 : tableBeginsAt(table) + firstByte;
    const { span } = await this.#source.readExtent(part, present(this.#memories[index], 'memory'), at);
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
