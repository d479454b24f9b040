// Reads layers and table rows from the checkpoint's files, in place or from the drives that they are striped over.

import { present } from '../errors.js';
import type { Extent, HostLayout } from '../model/layout.js';
import type { RowTable } from '../model/model.js';
import { type StripedFile, stripeRuns, type WeightFile } from '../model/stripes.js';
import { rowPlace } from '../model/table-rows.js';
import {
  type Backend,
  type FileRef,
  type HostMemory,
  READ_ALIGNMENT_BYTES,
  type ReadRequest,
  type ReadSpan,
} from '../port/backend.js';
import { roundDown, roundUp } from '../units.js';

type Reader = Pick<Backend, 'openFile' | 'read'>;

/** A file that was opened, or those that have its bytes. */
interface OpenFile {
  readonly striped: StripedFile | undefined;
  readonly refs: readonly FileRef[];
}

/** A read of a file, whether striped or not. */
interface FileRead extends Omit<ReadRequest, 'file'> {
  readonly fileIndex: number;
}

export class WeightSource {
  readonly #reader: Reader;
  readonly #files: readonly OpenFile[];

  /** Opens every file; throws an OperatingError for the first that cannot be opened. */
  constructor(reader: Reader, files: readonly WeightFile[]) {
    this.#reader = reader;
    this.#files = files.map((file) =>
      typeof file === 'string'
        ? { striped: undefined, refs: [reader.openFile(file)] }
        : { striped: file, refs: file.parts.map(({ path }) => reader.openFile(path)) },
    );
  }

  /** Fills `into` with the layer as `layout` says; `urgent` as with `Backend.read`. */
  readLayer(layout: HostLayout, into: HostMemory, urgent = false): Promise<ReadSpan> {
    return this.#reader.read(this.requestsFor(layout), into, urgent);
  }

  requestsFor({ runs }: HostLayout): ReadRequest[] {
    return runs.flatMap((run) => this.#requests({ ...run, memoryOffset: run.bufferOffset }));
  }

  /** Reads bytes of a file, and what an aligned read brings with them, to `at`; `offsetBytes` says where in `into` they begin. */
  async readExtent(
    { fileIndex, fileOffset, sizeBytes }: Extent,
    into: HostMemory,
    at = 0,
  ): Promise<{ readonly offsetBytes: number; readonly span: ReadSpan }> {
    const start = roundDown(fileOffset, READ_ALIGNMENT_BYTES);
    const requiredBytes = fileOffset + sizeBytes - start;
    const read = { fileIndex, fileOffset: start, sizeBytes: roundUp(requiredBytes, READ_ALIGNMENT_BYTES) };
    const span = await this.#reader.read(this.#requests({ ...read, requiredBytes, memoryOffset: at }), into);
    return { offsetBytes: at + fileOffset - start, span };
  }

  /** Reads rows of a table, each into its own slot of `rowSlotBytes(table)` bytes, before layers that are queued. */
  readRows(
    table: RowTable,
    rows: readonly { row: number; slotOffset: number }[],
    into: HostMemory,
  ): Promise<ReadSpan> {
    const requests = rows.flatMap(({ row, slotOffset }) => {
      const { start, offsetInSlot, rowBytes } = rowPlace(table, row);
      return this.#requests({
        fileIndex: table.extent.fileIndex,
        fileOffset: start,
        sizeBytes: roundUp(offsetInSlot + rowBytes, READ_ALIGNMENT_BYTES),
        requiredBytes: offsetInSlot + rowBytes,
        memoryOffset: slotOffset,
      });
    });
    return this.#reader.read(requests, into, true);
  }

  #requests({ fileIndex, fileOffset, sizeBytes, requiredBytes, memoryOffset }: FileRead): ReadRequest[] {
    const { striped, refs } = present(this.#files[fileIndex], `file ${fileIndex}`);
    if (!striped) {
      return [{ file: present(refs[0], 'file'), fileOffset, sizeBytes, requiredBytes, memoryOffset }];
    }
    // What nobody needs may lie beyond the end of every part.
    const needed = roundUp(requiredBytes, READ_ALIGNMENT_BYTES);
    return stripeRuns(striped, fileOffset, Math.min(sizeBytes, needed)).map((run) => ({
      file: present(refs[run.drive], 'part'),
      fileOffset: run.partOffset,
      sizeBytes: run.sizeBytes,
      requiredBytes: Math.min(run.sizeBytes, requiredBytes - run.offsetBytes),
      memoryOffset: memoryOffset + run.offsetBytes,
    }));
  }
}
