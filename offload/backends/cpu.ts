// The CPU as a device: native worker threads behind streams and events, and reads through the ring.

import { OperatingError, present } from '../errors.js';
import type { Device } from '../port/backend.js';
import { native } from '../port/native.js';
import type { NativeExchange, NativeStream } from '../port/native-devices.js';
import type { IoOptions } from '../port/native-io.js';
import type { Memory } from '../port/ops.js';
import { MappedMemory } from './mapped-memory.js';
import { NativeBackend } from './native-backend.js';
import { NativeHost } from './native-host.js';
import { QueueStream } from './native-stream.js';
import { computeThreads, startComputing } from './processors.js';

export interface CpuBackendOptions {
  /** Virtual devices with memory of their own, reached by copies and gathers; default one that computes in place. */
  readonly virtualDevices?: number;
  /** Threads that compute; default one per core, or fewer where a quota of the control group leaves less. */
  readonly threads?: number;
  /**
   * What products with bf16 values compute in: f32 (the default), or bf16 inputs with f32 sums where the processor multiplies
   * them; on tiles where it has them, which is faster but for one token at a time. Other products stay f32.
   */
  readonly computeType?: ComputeType;
  /** Forces a kernel set by name. */
  readonly isa?: string;
  readonly io?: Partial<IoOptions>;
}

export type ComputeType = 'float32' | 'bfloat16' | 'float32_tiles' | 'bfloat16_tiles';

/** By type the kernel set that computes in it, and what the processor has for it; the best where there is none. */
const KERNEL_SETS: Readonly<
  Record<ComputeType, { readonly set: string; readonly needs: string } | undefined>
> = {
  float32: undefined,
  bfloat16: { set: 'avx512bf16', needs: 'AVX512_BF16' },
  float32_tiles: { set: 'amx', needs: 'AMX_BF16, or the system’s leave to use it,' },
  bfloat16_tiles: { set: 'amxbf16', needs: 'AMX_BF16, or the system’s leave to use it,' },
};

class CpuDevice implements Device {
  readonly name: string;
  readonly computesInPlace: boolean;
  readonly compute: QueueStream<NativeStream>;
  readonly fetch: QueueStream;
  readonly gather: QueueStream;
  readonly load: QueueStream;
  readonly store: QueueStream;
  readonly #memories: MappedMemory[] = [];

  /** @param opened takes each stream as soon as it is open, also where a later one cannot be */
  constructor(name: string, computesInPlace: boolean, opened: QueueStream[]) {
    this.name = name;
    this.computesInPlace = computesInPlace;
    const openStream = (use: string) => {
      const stream = new QueueStream(native().createStream(`${name} ${use}`));
      opened.push(stream);
      return stream;
    };
    this.compute = openStream('compute');
    // In place nothing is copied to the device, so one stream serves.
    const open = (use: string) => (computesInPlace ? this.compute : openStream(use));
    this.fetch = open('fetch');
    this.gather = open('gather');
    this.load = open('load');
    this.store = open('store');
  }

  allocate(sizeBytes: number): Memory {
    const memory = new MappedMemory(sizeBytes, true);
    this.#memories.push(memory);
    return memory;
  }

  free(): void {
    for (const memory of this.#memories.splice(0)) memory.native.free();
  }
}

/** Throws NO_DEVICE. */
function kernelSet({ isa, computeType = 'float32' }: CpuBackendOptions): string | undefined {
  const sets = native().instructionSets();
  const wanted = KERNEL_SETS[computeType];
  if (wanted !== undefined && !sets.includes(wanted.set)) {
    throw new OperatingError(
      'NO_DEVICE',
      `--compute_dtype is ${computeType}, but this processor does not multiply so (${wanted.needs} is missing; it has ${sets.join(', ') || 'no AVX2'}): leave it out`,
    );
  }
  return isa ?? wanted?.set;
}

/** Starts the threads that compute. Gives sentences about those that are wanted and not there. */
function startThreads(wanted: number | undefined, isa: string | undefined): string[] {
  const threads = computeThreads(wanted);
  const refusal = startComputing(threads, isa);
  const notes = refusal === '' ? [] : [`fewer threads compute than wanted: ${refusal}`];
  if (wanted === undefined || wanted <= threads) return notes;
  return [
    `${wanted} threads were to compute, but this process may run on ${threads} cores: as many do`,
    ...notes,
  ];
}

export class CpuBackend extends NativeBackend {
  readonly kind = 'cpu';
  readonly devices: readonly CpuDevice[];
  /** Virtual devices copy within the same memory. */
  readonly peers: readonly (readonly boolean[])[];
  readonly collective = undefined;
  readonly #streams: QueueStream[] = [];
  readonly #threadNotes: readonly string[];

  /**
   * Throws NO_DEVICE where the processor or the system lacks what is asked for, and SYSTEM_LIMIT where threads cannot start.
   * @param host closed with the backend; default one of its own with `io`
   */
  constructor(options: CpuBackendOptions = {}, host?: NativeHost) {
    const { virtualDevices = 0, threads, io } = options;
    const isa = kernelSet(options);
    super(host ?? new NativeHost(io));
    const opened: CpuDevice[] = [];
    this.devices = opened;
    try {
      if (virtualDevices === 0) opened.push(new CpuDevice('cpu', true, this.#streams));
      for (let index = 0; index < virtualDevices; index++) {
        opened.push(new CpuDevice(`cpu:${index}`, false, this.#streams));
      }
      // After the streams, which cannot do with fewer threads.
      this.#threadNotes = startThreads(threads, isa);
    } catch (error) {
      void this.close(); // leaves nothing open
      throw error;
    }
    this.peers = this.devices.map(() => this.devices.map(() => true));
  }

  override get notes(): readonly string[] {
    return [...super.notes, ...this.#threadNotes];
  }

  protected override openEnds(devices: readonly Device[], sizeBytes: number): NativeExchange[] {
    return native().openHostExchange(
      devices.map((device) => this.#own(device).compute.native),
      sizeBytes,
    );
  }

  #own(device: Device): CpuDevice {
    return present(
      this.devices.find((own) => own === device),
      'a device of this backend',
    );
  }

  protected override async stop(): Promise<void> {
    for (const stream of this.#streams) void stream.close();
    for (const device of this.devices) device.free();
  }
}
