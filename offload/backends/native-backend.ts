// What native backends have in common: the host side, the clock, and closing once.

import { assert } from '../errors.js';
import type {
  Backend,
  Device,
  FileRef,
  HostMemory,
  HostPurpose,
  ReadRequest,
  ReadSpan,
} from '../port/backend.js';
import type { FileState } from '../port/file-state.js';
import { native } from '../port/native.js';
import { MappedMemory } from './mapped-memory.js';
import type { NativeHost } from './native-host.js';

export abstract class NativeBackend implements Backend {
  abstract readonly kind: 'cpu' | 'cuda';
  abstract readonly devices: readonly Device[];
  abstract readonly peers: Backend['peers'];
  abstract readonly collective: Backend['collective'];
  readonly #host: NativeHost;
  #closing: Promise<void> | undefined;

  /** @param host closed with the backend */
  constructor(host: NativeHost) {
    this.#host = host;
  }

  get notes(): readonly string[] {
    return this.#host.notes;
  }

  get ioEngine(): string {
    return this.#host.ioEngine;
  }

  nowMs(): number {
    return native().nowMs();
  }

  allocateHost(sizeBytes: number, purpose: HostPurpose): HostMemory {
    const memory = this.#host.allocate(sizeBytes, purpose);
    this.allocated(memory, purpose);
    return memory;
  }

  openFile(path: string): FileRef {
    return this.#host.openFile(path);
  }

  checkFiles(expected?: ReadonlyMap<string, FileState>): void {
    this.#host.checkFiles(expected);
  }

  async read(requests: readonly ReadRequest[], into: HostMemory, urgent = false): Promise<ReadSpan> {
    const span = await this.#host.read(requests, into, urgent);
    await this.touched(hostBlock(into));
    return span;
  }

  /** Memory of the same host that `read` fills, or has filled, without this backend: resolves when devices reach it. */
  async adopt(memory: HostMemory, read: Promise<ReadSpan>): Promise<void> {
    this.allocated(hostBlock(memory), 'resident');
    await read;
    await this.touched(hostBlock(memory));
  }

  close(): Promise<void> {
    this.#closing ??= this.#host.close(this.stop());
    return this.#closing;
  }

  /** Lets the devices know new memory. */
  protected allocated(_memory: MappedMemory, _purpose: HostPurpose): void {}

  /** Called when a read has filled the memory. */
  protected touched(_memory: MappedMemory): Promise<void> | undefined {
    return undefined;
  }

  /** Closes the devices, at once; resolves when nothing of them touches host memory any more. */
  protected abstract stop(): Promise<unknown>;
}

function hostBlock(memory: HostMemory): MappedMemory {
  assert(memory instanceof MappedMemory, 'memory of this backend');
  return memory;
}
