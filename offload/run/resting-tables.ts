// Embedding tables that come to rest where kernels find their rows: each is read once, behind the layers.

import { present } from '../errors.js';
import type { ModelSpec, RowTable } from '../model/model.js';
import { type TablePiece, tablePieces, tokenTables } from '../model/table-rows.js';
import type { Device } from '../port/backend.js';
import type { Tensor } from '../port/ops.js';
import type { Trace } from '../trace.js';
import { openTableHome, type TableHome, type TableHomeOptions } from './table-homes.js';

export interface RestingTablesOptions extends Omit<TableHomeOptions, 'tables'> {
  readonly model: ModelSpec;
  readonly trace: Trace;
}

/** The tables whose rows are tokens'. Those of positions are small, and their rows known ahead. */
export class RestingTables {
  readonly #home: TableHome;
  readonly #trace: Trace;
  /** All tables', in the order in which they come. */
  readonly #pieces: readonly TablePiece[];
  #next = 0;
  #isStopped = true;
  #coming: Promise<void> = Promise.resolve();
  #areThere = false;
  #hasFailed = false;

  constructor({ model, trace, ...options }: RestingTablesOptions) {
    const tables = tokenTables(model);
    this.#home = openTableHome({ ...options, tables });
    this.#trace = trace;
    this.#pieces = tables.flatMap(tablePieces);
  }

  /** All of them are. */
  get areThere(): boolean {
    return this.#areThere;
  }

  /** Where a device finds a table, [rows, columns]; undefined while it does not, and for others. */
  find(device: Device, table: RowTable): Tensor | undefined {
    return this.#areThere ? this.#home.find(device, table) : undefined;
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
        const piece = present(this.#pieces[this.#next], 'piece');
        const span = await this.#home.bring(piece);
        this.#trace.add({ lane: 'rows', owner: 'drive', name: piece.table.key, ...span });
      }
      await this.#home.settled();
      this.#areThere = this.#next === this.#pieces.length;
    } catch {
      this.#hasFailed = true;
    }
  }
}
