// What native backends have in common: the host side, the clock, and closing once.

import { assert } from '../errors.js';
import type {
  Backend,
  Device,
  DriveFigures,
  FileRef,
  HostMemory,
  HostPurpose,
  HostWorker,
  ReadRequest,
  ReadSpan,
} from '../port/backend.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type { Exchange } from '../port/exchange.js';
import type { FilePieces } from '../port/file-pieces.js';
import type { FileState } from '../port/file-state.js';
import { MAIL_WORDS } from '../port/host-ops.js';
import { native } from '../port/native.js';
import type { NativeExchange } from '../port/native-devices.js';
import type { Memory } from '../port/ops.js';
import { MappedMemory } from './mapped-memory.js';
import type { NativeHost } from './native-host.js';
import { NativeWorker } from './native-worker.js';

export abstract class NativeBackend implements Backend {
  abstract readonly kind: 'cpu' | 'cuda';
  abstract readonly devices: readonly Device[];
  abstract readonly peers: Backend['peers'];
  abstract readonly collective: Backend['collective'];
  readonly #host: NativeHost;
  readonly #workers: NativeWorker[] = [];
  readonly #exchanges: NativeExchange[] = [];
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

  openWorker(device: Device): HostWorker {
    this.startThreads();
    const mail = hostBlock(this.allocateHost(MAIL_WORDS * DTYPE_BYTES.i32, 'shared'));
    const worker = new NativeWorker(`${device.name} host`, mail);
    this.#workers.push(worker);
    return worker;
  }

  openExchange(devices: readonly Device[], sizeBytes: number): readonly Exchange[] {
    const ends = this.openEnds(devices, sizeBytes);
    this.#exchanges.push(...ends);
    return ends.map(({ id }, rank) => ({ id, rank, count: devices.length, sizeBytes }));
  }

  closeExchange(ends: readonly Exchange[]): void {
    const ids = new Set(ends.map(({ id }) => id));
    for (const end of this.#exchanges) if (ids.has(end.id)) end.close();
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

  driveFigures(): readonly DriveFigures[] {
    return this.#host.driveFigures();
  }

  filePieces(pieces: readonly (readonly ReadRequest[])[], into: Memory): FilePieces {
    return this.#host.filePieces(pieces, into);
  }

  /** Memory of the same host that `read` fills, or has filled, without this backend: resolves when devices reach it. */
  async adopt(memory: HostMemory, read: Promise<ReadSpan>): Promise<void> {
    this.allocated(hostBlock(memory), 'resident');
    await read;
    await this.touched(hostBlock(memory));
  }

  close(): Promise<void> {
    this.#closing ??= this.#stop();
    return this.#closing;
  }

  /** Devices wait for workers. */
  async #stop(): Promise<void> {
    for (const worker of this.#workers) worker.close();
    const stopped = this.stop();
    // When streams tell nobody any more that they got anywhere, since those that wait for others now go on without them.
    for (const end of this.#exchanges) end.close();
    await this.#host.close(stopped.then(() => this.#freeExchanges()));
  }

  #freeExchanges(): void {
    for (const end of this.#exchanges.splice(0)) end.free();
  }

  /** An end for each of the devices, in their order. */
  protected abstract openEnds(devices: readonly Device[], sizeBytes: number): NativeExchange[];

  /** Called before the processor computes for a device. */
  protected startThreads(): void {}

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
