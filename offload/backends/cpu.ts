// The CPU as a device: native worker threads behind streams and events, and reads through the ring.

import type {
  Backend,
  Device,
  DeviceEvent,
  DeviceStream,
  FileRef,
  HostMemory,
  HostPurpose,
  ReadRequest,
  ReadSpan,
} from '../backend.js';
import { assert } from '../errors.js';
import { type IoOptions, type NativeEvent, type NativeStream, native } from '../native.js';
import type { Memory, Op } from '../ops.js';
import { FileReads } from './file-reads.js';
import { HostBlock } from './host-block.js';
import { encodeCopy, encodeOp } from './op-encoding.js';

export interface CpuBackendOptions {
  /** Virtual devices with memory of their own, reached by copies and gathers; default one that computes in place. */
  readonly virtualDevices?: number;
  /** Threads that compute; default one per core. */
  readonly threads?: number;
  /** Forces a kernel set by name. */
  readonly isa?: string;
  readonly io?: Partial<IoOptions>;
}

class CpuEvent implements DeviceEvent {
  readonly native: NativeEvent;
  constructor(event: NativeEvent) {
    this.native = event;
  }
  get timeMs(): number {
    return this.native.timeMs;
  }
  reached(): Promise<void> {
    return this.native.promise();
  }
}

class CpuStream implements DeviceStream {
  readonly native: NativeStream;
  constructor(name: string) {
    this.native = native().createStream(name);
  }
  launch(op: Op): void {
    this.native.launch(encodeOp(op));
  }
  copy(to: Memory, toOffsetBytes: number, from: Memory, fromOffsetBytes: number, sizeBytes: number): void {
    if (sizeBytes > 0) this.native.launch(encodeCopy(to, toOffsetBytes, from, fromOffsetBytes, sizeBytes));
  }
  record(): DeviceEvent {
    return new CpuEvent(this.native.record());
  }
  wait(event: DeviceEvent): void {
    assert(event instanceof CpuEvent, 'events of one backend stay together');
    this.native.wait(event.native);
  }
}

class CpuDevice implements Device {
  readonly name: string;
  readonly computesInPlace: boolean;
  readonly compute: CpuStream;
  readonly fetch: CpuStream;
  readonly gather: CpuStream;
  readonly #memories: HostBlock[] = [];

  constructor(name: string, computesInPlace: boolean) {
    this.name = name;
    this.computesInPlace = computesInPlace;
    this.compute = new CpuStream(`${name} compute`);
    // In place nothing is copied to the device, so one stream serves.
    this.fetch = computesInPlace ? this.compute : new CpuStream(`${name} fetch`);
    this.gather = computesInPlace ? this.compute : new CpuStream(`${name} gather`);
  }

  allocate(sizeBytes: number): Memory {
    const memory = new HostBlock(sizeBytes, true);
    this.#memories.push(memory);
    return memory;
  }

  close(): void {
    for (const stream of new Set([this.compute, this.fetch, this.gather])) stream.native.close();
    for (const memory of this.#memories.splice(0)) memory.native.free();
  }
}

export class CpuBackend implements Backend {
  readonly kind = 'cpu';
  readonly devices: readonly CpuDevice[];
  readonly #reads: FileReads;
  readonly #memories: HostBlock[] = [];
  #closing: Promise<void> | undefined;

  constructor(options: CpuBackendOptions = {}) {
    const { virtualDevices = 0, threads, isa, io } = options;
    if (threads !== undefined || isa !== undefined) {
      native().configureCpu({ threads: threads ?? 0, ...(isa === undefined ? {} : { isa }) });
    }
    this.#reads = new FileReads(io);
    this.devices =
      virtualDevices === 0
        ? [new CpuDevice('cpu', true)]
        : Array.from({ length: virtualDevices }, (_, index) => new CpuDevice(`cpu:${index}`, false));
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
    const memory = new HostBlock(sizeBytes, purpose !== 'control');
    this.#memories.push(memory);
    if (purpose === 'stream') this.#reads.reuse(memory);
    return memory;
  }

  openFile(path: string): FileRef {
    return this.#reads.open(path);
  }

  read(requests: readonly ReadRequest[], into: HostMemory): Promise<ReadSpan> {
    assert(into instanceof HostBlock, 'memory of this backend');
    return this.#reads.read(requests, into);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    for (const device of this.devices) device.close();
    await this.#reads.close();
    for (const memory of this.#memories.splice(0)) memory.native.free();
  }
}
