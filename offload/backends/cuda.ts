// NVIDIA GPUs as devices: streams and events of the driver, memory of their own, page-locked host buffers.

import { OperatingError, present } from '../errors.js';
import type { Collective, Device, HostPurpose } from '../port/backend.js';
import { exchangeBytes } from '../port/exchange.js';
import { native } from '../port/native.js';
import type {
  CudaStatus,
  NativeCudaStream,
  NativeDeviceMemory,
  NativeExchange,
  NativeGatherer,
} from '../port/native-devices.js';
import type { IoOptions } from '../port/native-io.js';
import type { Memory } from '../port/ops.js';
import { formatBytes } from '../units.js';
import { messageOf } from './file-reads.js';
import type { MappedMemory } from './mapped-memory.js';
import { NativeBackend } from './native-backend.js';
import { NativeHost } from './native-host.js';
import { QueueStream } from './native-stream.js';
import { computeThreads, startComputing, threadsBeside } from './processors.js';
import { ShortWaits } from './short-waits.js';

export interface CudaBackendOptions {
  /** GPUs by their number, as CUDA counts them; default the first one. */
  readonly devices?: readonly number[];
  /** Load NCCL for gathers by all devices at once. */
  readonly nccl?: boolean;
  readonly io?: Partial<IoOptions>;
}

/** What this build and machine have; never throws. */
export function cudaStatus(): CudaStatus {
  return native().cudaStatus();
}

/**
 * Starts the driver beside whatever comes next; what is missing is said by whoever needs it. Resolves when the driver
 * answers at once, or never will.
 */
export async function warmCuda(): Promise<void> {
  try {
    await native().warmCuda();
  } catch {
    // Without the addon every command says how to build it.
  }
}

/** Known without asking the addon, also when it was freed: a pass that has not noticed the end yet still looks. */
interface DeviceMemory extends Memory {
  readonly native: NativeDeviceMemory;
}

class CudaDevice implements Device {
  readonly name: string;
  readonly computesInPlace = false;
  readonly compute: QueueStream;
  readonly fetch: QueueStream;
  readonly gather: QueueStream<NativeCudaStream>;
  readonly load: QueueStream;
  readonly store: QueueStream;
  readonly index: number;
  readonly #memories: DeviceMemory[] = [];

  constructor(index: number) {
    this.index = index;
    this.name = `cuda:${index}`;
    this.compute = openStream(index, `${this.name} compute`, true);
    this.fetch = openStream(index, `${this.name} fetch`);
    this.gather = openStream(index, `${this.name} gather`);
    this.load = openStream(index, `${this.name} load`);
    this.store = openStream(index, `${this.name} store`);
  }

  /** Bytes handed out; the streams' own workspaces come on top. */
  get allocatedBytes(): number {
    return this.#memories.reduce((sum, memory) => sum + memory.sizeBytes, 0);
  }

  allocate(sizeBytes: number): Memory {
    try {
      const block = new (native().NativeDeviceMemory)(this.index, sizeBytes);
      const memory = { native: block, id: block.id, sizeBytes: block.sizeBytes };
      this.#memories.push(memory);
      return memory;
    } catch (error) {
      throw new OperatingError(
        'DOES_NOT_FIT',
        `${formatBytes(sizeBytes)} cannot be allocated on ${this.name}, which has ` +
          `${formatBytes(native().cudaFreeBytes(this.index))} free: ${messageOf(error)}; give a smaller --gpu_memory`,
        { cause: error },
      );
    }
  }

  /** Resolves when nothing that was queued runs any more. */
  async closeStreams(): Promise<void> {
    const streams = [this.compute, this.fetch, this.gather, this.load, this.store];
    await Promise.all(streams.map((stream) => stream.close()));
  }

  free(): void {
    for (const memory of this.#memories.splice(0)) memory.native.free();
  }
}

function openStream(device: number, name: string, computes = false): QueueStream<NativeCudaStream> {
  const queue = new (native().NativeCudaStream)(device, name, computes);
  return new QueueStream(queue, computes ? new ShortWaits() : undefined);
}

/** NCCL on the devices' gather streams. */
class NcclCollective implements Collective {
  readonly #native: NativeGatherer;
  readonly #devices: readonly CudaDevice[];

  /** Throws NO_DEVICE. */
  constructor(indices: readonly number[], devices: readonly CudaDevice[]) {
    this.#devices = devices;
    try {
      this.#native = new (native().NativeGatherer)(indices);
    } catch (error) {
      throw new OperatingError(
        'NO_DEVICE',
        `shards cannot be gathered by NCCL: ${messageOf(error)}; or give --gather peer`,
        { cause: error },
      );
    }
  }

  get deviceBytes(): number {
    return this.#native.deviceBytes;
  }

  gather(buffers: readonly Memory[], shardBytes: number): void {
    const streams = this.#devices.map((device) => device.gather);
    // As streams do: what a pass queues that has not noticed the end yet is dropped.
    if (streams.some(({ closed }) => closed)) return;
    this.#native.gather(
      streams.map((stream) => stream.native),
      buffers.map(({ id }) => id),
      shardBytes,
    );
  }

  /** When the streams are closed. */
  close(): Promise<void> {
    return this.#native.close();
  }
}

export class CudaBackend extends NativeBackend {
  readonly kind = 'cuda';
  readonly devices: readonly CudaDevice[];
  readonly peers: readonly (readonly boolean[])[];
  readonly collective: NcclCollective | undefined;
  /** Memory whose pages the first read touches, so that locking them costs little afterwards. */
  readonly #toPin = new Map<MappedMemory, Promise<void> | undefined>();
  /** Kernels read it, and nobody copies it for them. */
  readonly #inPlace = new WeakSet<MappedMemory>();
  #pinRefusal: string | undefined;
  #threadRefusal: string | undefined;

  /**
   * Throws NO_DEVICE with a sentence about what is missing.
   * @param host closed with the backend; default one of its own with `io`
   */
  constructor(options: CudaBackendOptions = {}, host?: NativeHost) {
    const { devices = [0], io, nccl = false } = options;
    const { problem, devices: found } = cudaStatus();
    if (problem !== '') throw new OperatingError('NO_DEVICE', `CUDA cannot be used: ${problem}`);
    const absent = devices.find((index) => index >= found.length);
    if (absent !== undefined) {
      throw new OperatingError(
        'NO_DEVICE',
        `cuda:${absent} was asked for, but this machine has ${found.length} GPUs, numbered from 0`,
      );
    }
    super(host ?? new NativeHost(io));
    const opened: CudaDevice[] = [];
    this.devices = opened;
    try {
      for (const index of devices) opened.push(new CudaDevice(index));
      this.peers = native().cudaPeerAccess(devices);
      this.collective = nccl ? new NcclCollective(devices, opened) : undefined;
    } catch (error) {
      void this.close(); // leaves nothing open
      throw error;
    }
  }

  override get notes(): readonly string[] {
    const notes = [...super.notes];
    if (this.#pinRefusal !== undefined) {
      notes.push(
        `host memory could not be page-locked (${this.#pinRefusal}): copies to the GPU run at a fraction of the link's rate`,
      );
    }
    if (this.#threadRefusal !== undefined) {
      notes.push(`fewer threads compute beside the GPU than wanted: ${this.#threadRefusal}`);
    }
    return notes;
  }

  protected override allocated(memory: MappedMemory, purpose: HostPurpose): void {
    // Kernels read tables, embedding rows and what is shared where they lie, so these are locked before anything else; no read
    // ever touches a cache.
    if (purpose === 'control' || purpose === 'shared' || purpose === 'cache') native().pinMemory(memory.id);
    else this.#toPin.set(memory, undefined);
    if (purpose === 'table') this.#inPlace.add(memory);
  }

  protected override touched(memory: MappedMemory): Promise<void> | undefined {
    if (!this.#toPin.has(memory)) return undefined;
    const pinning =
      this.#toPin.get(memory) ??
      native()
        .pinMemorySoon(memory.id)
        .catch((error: unknown) => {
          this.#pinRefusal ??= messageOf(error);
          if (this.#inPlace.has(memory)) throw error;
        })
        .finally(() => this.#toPin.delete(memory));
    if (this.#toPin.has(memory)) this.#toPin.set(memory, pinning);
    return pinning;
  }

  /** Tests and benchmarks have it `throughHost` where devices reach each other too. */
  protected override openEnds(
    devices: readonly Device[],
    sizeBytes: number,
    throughHost = false,
  ): NativeExchange[] {
    const indices = devices.map((device) => this.#own(device).index);
    try {
      return native().openCudaExchange(indices, sizeBytes, throughHost);
    } catch (error) {
      const bytes = formatBytes(exchangeBytes(devices.length, sizeBytes));
      throw new OperatingError(
        'DOES_NOT_FIT',
        `${bytes} on each of ${devices.map(({ name }) => name).join(', ')} for sums of all cannot be allocated: ` +
          `${messageOf(error)}; give a smaller --gpu_memory`,
        { cause: error },
      );
    }
  }

  #own(device: Device): CudaDevice {
    return present(
      this.devices.find((own) => own === device),
      'a device of this backend',
    );
  }

  protected override startThreads(): void {
    const threads = Math.max(1, threadsBeside(computeThreads()));
    const refusal = startComputing(threads);
    if (refusal !== '') this.#threadRefusal = refusal;
  }

  protected override async stop(): Promise<void> {
    const streams = this.devices.map((device) => device.closeStreams());
    await Promise.all(streams);
    await Promise.allSettled(this.#toPin.values());
    await this.collective?.close();
    for (const device of this.devices) device.free();
  }
}
