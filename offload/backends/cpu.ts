// The CPU as a device: native worker threads behind streams and events, and reads through the ring.

import {
  type Backend,
  type Device,
  type DeviceEvent,
  type DeviceStream,
  type FileRef,
  type HostMemory,
  type HostPurpose,
  READ_ALIGNMENT_BYTES,
  type ReadRequest,
  type ReadSpan,
} from '../backend.js';
import { assert, OperatingError } from '../errors.js';
import { DEFAULT_IO_OPTIONS } from '../io-defaults.js';
import {
  type IoFailure,
  type IoOptions,
  type NativeEvent,
  type NativeIo,
  type NativeMemory,
  type NativeStream,
  native,
  READ_WORDS,
} from '../native.js';
import type { Memory, Op } from '../ops.js';
import { formatBytes } from '../units.js';
import { encodeCopy, encodeOp } from './cpu-encoding.js';

export interface CpuBackendOptions {
  /** Virtual devices with memory of their own, reached by copies and gathers; default one that computes in place. */
  readonly virtualDevices?: number;
  /** Threads that compute; default one per core. */
  readonly threads?: number;
  /** Forces a kernel set by name. */
  readonly isa?: string;
  readonly io?: Partial<IoOptions>;
}

class CpuMemory implements HostMemory {
  readonly native: NativeMemory;
  readonly id: number;
  readonly sizeBytes: number;
  #bytes: Uint8Array<ArrayBuffer> | undefined;

  constructor(sizeBytes: number, hugePages: boolean) {
    try {
      this.native = new (native().NativeMemory)(sizeBytes, hugePages);
    } catch (error) {
      throw new OperatingError(
        'DOES_NOT_FIT',
        `${formatBytes(sizeBytes)} of memory cannot be allocated: ${String(error)}`,
      );
    }
    this.id = this.native.id;
    this.sizeBytes = sizeBytes;
  }

  /** Made at first use: a view is limited to 4 GiB, and only small control memory needs one. */
  get bytes(): Uint8Array<ArrayBuffer> {
    this.#bytes ??= new Uint8Array(this.native.view(0, this.sizeBytes));
    return this.#bytes;
  }
}

class CpuEvent implements DeviceEvent {
  /** Null when the stream was closed before. */
  readonly native: NativeEvent | null;
  readonly #stream: CpuStream;
  constructor(event: NativeEvent | null, stream: CpuStream) {
    this.native = event;
    this.#stream = stream;
  }
  get timeMs(): number {
    return this.native?.timeMs ?? Number.NaN;
  }
  async reached(): Promise<void> {
    try {
      if (!this.native) throw new Error('recorded on a closed stream');
      await this.native.promise();
    } catch (error) {
      if (!this.#stream.closed) throw error;
      throw new OperatingError('INTERRUPTED', 'computing was stopped', { cause: error });
    }
  }
}

/** After close() nothing runs any more: what is still queued by a pass that has not noticed yet is dropped. */
class CpuStream implements DeviceStream {
  readonly #native: NativeStream;
  closed = false;
  constructor(name: string) {
    this.#native = native().createStream(name);
  }
  launch(op: Op): void {
    if (!this.closed) this.#native.launch(encodeOp(op));
  }
  copy(to: Memory, toOffsetBytes: number, from: Memory, fromOffsetBytes: number, sizeBytes: number): void {
    if (this.closed || sizeBytes === 0) return;
    this.#native.launch(encodeCopy(to, toOffsetBytes, from, fromOffsetBytes, sizeBytes));
  }
  record(): DeviceEvent {
    return new CpuEvent(this.closed ? null : this.#native.record(), this);
  }
  wait(event: DeviceEvent): void {
    assert(event instanceof CpuEvent, 'events of one backend stay together');
    if (!this.closed && event.native) this.#native.wait(event.native);
  }
  close(): void {
    this.closed = true;
    this.#native.close();
  }
}

class CpuDevice implements Device {
  readonly name: string;
  readonly computesInPlace: boolean;
  readonly compute: CpuStream;
  readonly fetch: CpuStream;
  readonly gather: CpuStream;
  readonly #memories: CpuMemory[] = [];

  constructor(name: string, computesInPlace: boolean) {
    this.name = name;
    this.computesInPlace = computesInPlace;
    this.compute = new CpuStream(`${name} compute`);
    // In place nothing is copied to the device, so one stream serves.
    this.fetch = computesInPlace ? this.compute : new CpuStream(`${name} fetch`);
    this.gather = computesInPlace ? this.compute : new CpuStream(`${name} gather`);
  }

  allocate(sizeBytes: number): Memory {
    const memory = new CpuMemory(sizeBytes, true);
    this.#memories.push(memory);
    return memory;
  }

  close(): void {
    for (const stream of new Set([this.compute, this.fetch, this.gather])) stream.close();
    for (const memory of this.#memories.splice(0)) memory.native.free();
  }
}

export class CpuBackend implements Backend {
  readonly kind = 'cpu';
  readonly devices: readonly CpuDevice[];
  readonly #io: NativeIo;
  readonly #wantsDirect: boolean;
  readonly #files: FileRef[] = [];
  readonly #memories: CpuMemory[] = [];
  /** Stream buffers that are still to be registered with the ring. */
  readonly #registration = new Map<HostMemory, 'untouched' | 'touched'>();
  #closing: Promise<void> | undefined;

  constructor(options: CpuBackendOptions = {}) {
    const { virtualDevices = 0, threads, isa, io } = options;
    if (threads !== undefined || isa !== undefined) {
      native().configureCpu({ threads: threads ?? 0, ...(isa === undefined ? {} : { isa }) });
    }
    const ioOptions = { ...DEFAULT_IO_OPTIONS, ...io };
    this.#wantsDirect = ioOptions.direct;
    this.#io = createIo(ioOptions);
    this.devices =
      virtualDevices === 0
        ? [new CpuDevice('cpu', true)]
        : Array.from({ length: virtualDevices }, (_, index) => new CpuDevice(`cpu:${index}`, false));
  }

  get notes(): readonly string[] {
    if (!this.#wantsDirect) return this.#io.notes;
    const buffered = this.#files.filter((file) => !file.direct).map((file) => file.path);
    const said =
      buffered.length > 0 ? [`${buffered[0]} and its file system refuse O_DIRECT: reads are buffered`] : [];
    return [...this.#io.notes, ...said];
  }

  get ioEngine(): string {
    return this.#io.engine;
  }

  nowMs(): number {
    return native().nowMs();
  }

  allocateHost(sizeBytes: number, purpose: HostPurpose): HostMemory {
    const memory = new CpuMemory(sizeBytes, purpose !== 'control');
    this.#memories.push(memory);
    if (purpose === 'stream') this.#registration.set(memory, 'untouched');
    return memory;
  }

  openFile(path: string): FileRef {
    try {
      const { file, sizeBytes, direct, alignmentBytes } = this.#io.open(path);
      assert(READ_ALIGNMENT_BYTES % alignmentBytes === 0, 'reads are aligned for this file');
      const ref = { file, path, sizeBytes, direct };
      this.#files.push(ref);
      return ref;
    } catch (error) {
      throw new OperatingError('NOT_FOUND', `${path} cannot be opened: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  async read(requests: readonly ReadRequest[], into: HostMemory): Promise<ReadSpan> {
    if (this.#closing) throw new OperatingError('INTERRUPTED', 'reading was stopped');
    this.#registerOnceTouched(into);
    const words = new Float64Array(requests.length * READ_WORDS);
    requests.forEach((request, index) => {
      const { file, fileOffset, sizeBytes, requiredBytes, memoryOffset } = request;
      words.set([file.file, fileOffset, sizeBytes, requiredBytes, into.id, memoryOffset], index * READ_WORDS);
    });
    try {
      const span = await this.#io.read(words);
      if (this.#registration.get(into) === 'untouched') this.#registration.set(into, 'touched');
      return span;
    } catch (error) {
      throw this.#explain(error);
    }
  }

  /**
   * Registering memory that was never touched costs a second per gigabyte, and so does touching it beforehand; so the
   * first read of a stream buffer, which touches it anyway, goes without, and then registration is a matter of milliseconds.
   */
  #registerOnceTouched(memory: HostMemory): void {
    if (!(memory instanceof CpuMemory) || this.#registration.get(memory) !== 'touched') return;
    this.#registration.delete(memory);
    this.#io.register(memory.native);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    for (const device of this.devices) device.close();
    await this.#io.close();
    for (const memory of this.#memories.splice(0)) memory.native.free();
  }

  #explain(error: unknown): unknown {
    if (!isIoFailure(error)) return error;
    const path = this.#files.find((file) => file.file === error.file)?.path ?? `file ${error.file}`;
    switch (error.errnoName) {
      case 'ECANCELED':
        return new OperatingError('INTERRUPTED', 'reading was stopped', { cause: error });
      case 'ESHORT':
        return new OperatingError(
          'FILE_CHANGED',
          `${path} ended at offset ${error.fileOffset} although its header promises more: the file shrank while it was in use`,
          { cause: error },
        );
      default:
        return new OperatingError(
          'READ_FAILED',
          `${path} cannot be read at offset ${error.fileOffset} (${error.errnoName}): check the drive and the kernel log`,
          { cause: error },
        );
    }
  }
}

function createIo(options: IoOptions): NativeIo {
  try {
    return native().createIo(options);
  } catch (error) {
    if (options.engine === 'auto') throw error;
    throw new OperatingError(
      'NO_DEVICE',
      `--io_engine ${options.engine} cannot be used on this machine: ${messageOf(error)}; use --io_engine auto`,
      { cause: error },
    );
  }
}

function isIoFailure(error: unknown): error is Error & IoFailure {
  return error instanceof Error && 'errnoName' in error;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
