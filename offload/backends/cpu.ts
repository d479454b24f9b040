// The CPU as a device: native worker threads behind streams and events, and reads through the ring.

import type { Device } from '../backend.js';
import { OperatingError } from '../errors.js';
import { type IoOptions, native } from '../native.js';
import type { Memory } from '../ops.js';
import { HostBlock } from './host-block.js';
import { NativeBackend } from './native-backend.js';
import { NativeHost } from './native-host.js';
import { QueueStream } from './native-stream.js';

export interface CpuBackendOptions {
  /** Virtual devices with memory of their own, reached by copies and gathers; default one that computes in place. */
  readonly virtualDevices?: number;
  /** Threads that compute; default one per core. */
  readonly threads?: number;
  /**
   * What products with bf16 weights compute in: f32 (the default), or bf16 inputs with f32 sums where the processor
   * multiplies them; products with other weights stay f32.
   */
  readonly computeType?: ComputeType;
  /** Forces a kernel set by name. */
  readonly isa?: string;
  readonly io?: Partial<IoOptions>;
}

export type ComputeType = 'float32' | 'bfloat16';

/** The kernel set whose products round inputs to bf16. */
const ROUNDING_SET = 'avx512bf16';

class CpuDevice implements Device {
  readonly name: string;
  readonly computesInPlace: boolean;
  readonly compute: QueueStream;
  readonly fetch: QueueStream;
  readonly gather: QueueStream;
  readonly load: QueueStream;
  readonly store: QueueStream;
  readonly #memories: HostBlock[] = [];

  constructor(name: string, computesInPlace: boolean) {
    this.name = name;
    this.computesInPlace = computesInPlace;
    this.compute = openStream(`${name} compute`);
    // In place nothing is copied to the device, so one stream serves.
    const open = (use: string) => (computesInPlace ? this.compute : openStream(`${name} ${use}`));
    this.fetch = open('fetch');
    this.gather = open('gather');
    this.load = open('load');
    this.store = open('store');
  }

  allocate(sizeBytes: number): Memory {
    const memory = new HostBlock(sizeBytes, true);
    this.#memories.push(memory);
    return memory;
  }

  close(): void {
    const streams = new Set([this.compute, this.fetch, this.gather, this.load, this.store]);
    for (const stream of streams) void stream.close();
    for (const memory of this.#memories.splice(0)) memory.native.free();
  }
}

function configure({ threads, isa, computeType }: CpuBackendOptions): void {
  if (threads === undefined && isa === undefined && computeType === undefined) return;
  const sets = native().instructionSets();
  if (computeType === 'bfloat16' && !sets.includes(ROUNDING_SET)) {
    throw new OperatingError(
      'NO_DEVICE',
      `--compute_dtype is bfloat16, but this processor does not multiply it (AVX512_BF16 is missing; it has ${sets.join(', ') || 'no AVX2'}): leave it out`,
    );
  }
  const set = isa ?? (computeType === 'bfloat16' ? ROUNDING_SET : undefined);
  native().configureCpu({ threads: threads ?? 0, ...(set === undefined ? {} : { isa: set }) });
}

function openStream(name: string): QueueStream {
  return new QueueStream(native().createStream(name));
}

export class CpuBackend extends NativeBackend {
  readonly kind = 'cpu';
  readonly devices: readonly CpuDevice[];
  /** Virtual devices copy within the same memory. */
  readonly peers: readonly (readonly boolean[])[];
  readonly collective = undefined;

  /**
   * Throws NO_DEVICE where the processor or the system lacks what is asked for.
   * @param host closed with the backend; default one of its own with `io`
   */
  constructor(options: CpuBackendOptions = {}, host?: NativeHost) {
    const { virtualDevices = 0, io } = options;
    configure(options);
    super(host ?? new NativeHost(io));
    this.devices =
      virtualDevices === 0
        ? [new CpuDevice('cpu', true)]
        : Array.from({ length: virtualDevices }, (_, index) => new CpuDevice(`cpu:${index}`, false));
    this.peers = this.devices.map(() => this.devices.map(() => true));
  }

  protected override async stop(): Promise<void> {
    for (const device of this.devices) device.close();
  }
}
