// What native backends have in common on the host: its memory, files and reads, the clock, and closing once.

import type { Backend, Device, FileRef, HostMemory, HostPurpose, ReadRequest, ReadSpan } from '../backend.js';
import { assert, OperatingError } from '../errors.js';
import { type IoOptions, native } from '../native.js';
import { MiB } from '../units.js';
import { FileReads } from './file-reads.js';
import { HostBlock } from './host-block.js';

const HUGE_FROM_BYTES = 4 * MiB;

export abstract class NativeBackend implements Backend {
  abstract readonly kind: 'cpu' | 'cuda';
  abstract readonly devices: readonly Device[];
  abstract readonly peers: Backend['peers'];
  abstract readonly collective: Backend['collective'];
  readonly #reads: FileReads;
  readonly #memories: HostBlock[] = [];
  #closing: Promise<void> | undefined;

  /** Throws NO_DEVICE where the wanted way of reading cannot be used. */
  constructor(io: Partial<IoOptions> | undefined) {
    this.#reads = new FileReads(io);
  }

  get notes(): readonly string[] {
    return this.#reads.notes;
  }

  get ioEngine(): string {
    return this.#reads.engine;
  }

  nowMs(): number {
    return native().nowMs();
  }

  allocateHost(sizeBytes: number, purpose: HostPurpose): HostMemory {
    // Small pages of large tables overtax what translates a device's addresses.
    const memory = new HostBlock(sizeBytes, purpose !== 'control' || sizeBytes >= HUGE_FROM_BYTES);
    this.#memories.push(memory);
    if (purpose === 'stream') this.#reads.reuse(memory);
    // Reads that have to get pages from the system, and clear them, are slower than a drive.
    if (purpose === 'resident') memory.native.populateSoon();
    this.allocated(memory, purpose);
    return memory;
  }

  openFile(path: string): FileRef {
    return this.#reads.open(path);
  }

  async read(requests: readonly ReadRequest[], into: HostMemory): Promise<ReadSpan> {
    assert(into instanceof HostBlock, 'memory of this backend');
    if (this.#closing) throw new OperatingError('INTERRUPTED', 'reading was stopped');
    const span = await this.#reads.read(requests, into);
    // Memory is given back as soon as the last read has ended.
    if (this.#closing) throw new OperatingError('INTERRUPTED', 'reading was stopped');
    await this.touched(into);
    return span;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Lets the devices know a new block. */
  protected allocated(_memory: HostBlock, _purpose: HostPurpose): void {}

  /** Called when a read has filled the block. */
  protected touched(_memory: HostBlock): Promise<void> | undefined {
    return undefined;
  }

  /** Closes the devices, at once; resolves when nothing of them touches host memory any more. */
  protected abstract stop(): Promise<unknown>;

  async #close(): Promise<void> {
    await Promise.all([this.stop(), this.#reads.close()]);
    for (const memory of this.#memories.splice(0)) memory.native.free();
  }
}
