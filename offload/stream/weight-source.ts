// Reads layers and table rows from the checkpoint's files, in place.

import { present } from '../errors.js';
import type { HostLayout } from '../model/layout.js';
import type { RowTable } from '../model/model.js';
import { rowPlace } from '../model/table-rows.js';
import {
  type Backend,
  type FileRef,
  type HostMemory,
  READ_ALIGNMENT_BYTES,
  type ReadRequest,
  type ReadSpan,
} from '../port/backend.js';
import { roundUp } from '../units.js';

type Reader = Pick<Backend, 'openFile' | 'read'>;

export class WeightSource {
  readonly #reader: Reader;
  readonly #files: readonly FileRef[];

  /** Opens every file; throws an OperatingError for the first that cannot be opened. */
  constructor(reader: Reader, paths: readonly string[]) {
    this.#reader = reader;
    this.#files = paths.map((path) => reader.openFile(path));
  }

  get files(): readonly FileRef[] {
    return this.#files;
  }

  /** Fills `into` with the layer as `layout` says; `urgent` as with `Backend.read`. */
  readLayer(layout: HostLayout, into: HostMemory, urgent = false): Promise<ReadSpan> {
    return this.#reader.read(this.requestsFor(layout), into, urgent);
  }

  requestsFor({ runs }: HostLayout): ReadRequest[] {
    return runs.map((run) => ({
      file: this.#file(run.fileIndex),
      fileOffset: run.fileOffset,
      sizeBytes: run.sizeBytes,
      requiredBytes: run.requiredBytes,
      memoryOffset: run.bufferOffset,
    }));
  }

  /** Reads rows of a table, each into its own slot of `rowSlotBytes(table)` bytes, before layers that are queued. */
  readRows(
    table: RowTable,
    rows: readonly { row: number; slotOffset: number }[],
    into: HostMemory,
  ): Promise<ReadSpan> {
    const requests = rows.map(({ row, slotOffset }) => {
      const { start, offsetInSlot, rowBytes } = rowPlace(table, row);
      return {
        file: this.#file(table.extent.fileIndex),
        fileOffset: start,
        sizeBytes: roundUp(offsetInSlot + rowBytes, READ_ALIGNMENT_BYTES),
        requiredBytes: offsetInSlot + rowBytes,
        memoryOffset: slotOffset,
      };
    });
    return this.#reader.read(requests, into, true);
  }

  #file(index: number): FileRef {
    return present(this.#files[index], `file ${index}`);
  }
}
