// The host side of native backends: memory, files and reads. It needs no device, so it may be there before one is.

import { assert, OperatingError } from '../errors.js';
import type {
  DriveFigures,
  FileRef,
  HostMemory,
  HostPurpose,
  ReadRequest,
  ReadSpan,
} from '../port/backend.js';
import type { FilePieces } from '../port/file-pieces.js';
import type { FileState } from '../port/file-state.js';
import type { IoOptions } from '../port/native-io.js';
import type { Memory } from '../port/ops.js';
import { MiB } from '../units.js';
import { FileReads } from './file-reads.js';
import { MappedMemory } from './mapped-memory.js';
import { machineTopology, nodesFor } from './numa.js';

const HUGE_FROM_BYTES = 4 * MiB;

export class NativeHost {
  readonly #reads: FileReads;
  readonly #memories: MappedMemory[] = [];
  /** Memory for layers that rest, which nothing was read into yet. */
  readonly #empty = new Set<MappedMemory>();
  #closing: Promise<void> | undefined;

  /** Throws NO_DEVICE where the wanted way of reading cannot be used. */
  constructor(io?: Partial<IoOptions>) {
    this.#reads = new FileReads(io);
  }

  get notes(): readonly string[] {
    return this.#reads.notes;
  }

  get ioEngine(): string {
    return this.#reads.engine;
  }

  /** Throws DOES_NOT_FIT. */
  allocate(sizeBytes: number, purpose: HostPurpose): MappedMemory {
    // Small pages of large tables overtax what translates a device's addresses.
    const memory = new MappedMemory(
      sizeBytes,
      (purpose !== 'control' && purpose !== 'shared') || sizeBytes >= HUGE_FROM_BYTES,
    );
    this.#memories.push(memory);
    const nodes = nodesFor(machineTopology(), purpose);
    // Where the system refuses, its own choice is as good as it was.
    if (nodes) memory.native.placeOnNodes(nodes);
    if (purpose === 'stream') this.#reads.reuse(memory);
    if (purpose === 'resident' || purpose === 'table') this.#empty.add(memory);
    return memory;
  }

  /** Gives one memory back before the others, once nothing uses it; none that was given back already. */
  free(memory: HostMemory): void {
    const index = this.#memories.findIndex((own) => own === memory);
    for (const own of index < 0 ? [] : this.#memories.splice(index, 1)) {
      this.#empty.delete(own);
      own.native.free();
    }
  }

  /** Throws NOT_FOUND. */
  openFile(path: string): FileRef {
    return this.#reads.open(path);
  }

  /** As `Backend.checkFiles`; looks at nothing once reading was stopped. */
  checkFiles(expected?: ReadonlyMap<string, FileState>): void {
    if (!this.#closing) this.#reads.check(expected);
  }

  /** As `Backend.driveFigures`. */
  driveFigures(): readonly DriveFigures[] {
    return this.#reads.driveFigures();
  }

  /** As `Backend.filePieces`. */
  filePieces(pieces: readonly (readonly ReadRequest[])[], into: Memory): FilePieces {
    return this.#reads.pieces(pieces, into);
  }

  /** As `Backend.read`. */
  async read(requests: readonly ReadRequest[], into: HostMemory, urgent = false): Promise<ReadSpan> {
    assert(into instanceof MappedMemory, 'memory of this host');
    if (this.#closing) throw new OperatingError('INTERRUPTED', 'reading was stopped');
    // Reads that have to get pages from the system, and clear them, are slower than a drive. Not all memory at once:
    // a driver that starts meanwhile would wait for them.
    if (this.#empty.delete(into)) into.native.populateSoon();
    const span = await this.#reads.read(requests, into, urgent);
    // Memory is given back as soon as the last read has ended.
    if (this.#closing) throw new OperatingError('INTERRUPTED', 'reading was stopped');
    return span;
  }

  /**
   * Stops reading at once, and gives all memory back when nothing uses it any more. More than once does no harm.
   * @param users resolves when devices touch the memory no more
   */
  close(users: Promise<unknown> = Promise.resolve()): Promise<void> {
    this.#closing ??= this.#close(users);
    return this.#closing;
  }

  async #close(users: Promise<unknown>): Promise<void> {
    await Promise.all([users, this.#reads.close()]);
    for (const memory of this.#memories.splice(0)) memory.native.free();
  }
}
