// Devices, links and drives on a virtual clock, with every delay and fault from one seed and every access checked.

import { assert, OperatingError, present } from '../../offload/errors.js';
import type {
  Backend,
  Collective,
  Device,
  DriveFigures,
  FileRef,
  HostMemory,
  HostPurpose,
  HostWorker,
  ReadRequest,
  ReadSpan,
} from '../../offload/port/backend.js';
import type { Exchange } from '../../offload/port/exchange.js';
import type { FilePieces } from '../../offload/port/file-pieces.js';
import { MAIL_WORDS } from '../../offload/port/host-ops.js';
import type { Memory, Tensor } from '../../offload/port/ops.js';
import { VirtualClock } from './clock.js';
import { SimulatedGather } from './collective.js';
import { type DriveStats, jitter, SimulatedDrive } from './drive.js';
import { tensorHash } from './hashes.js';
import { type Purpose, SimulatedMemory, simulated } from './memory.js';
import { Random } from './random.js';
import { SimulatedExchange } from './rank-exchange.js';
import { SimulatedPieces } from './slots.js';
import { type Expectation, SimulatedStream, type StreamWorld } from './stream.js';
import { SimulatedWorker } from './worker.js';

export { DeadlockError } from './clock.js';
export { HazardError } from './memory.js';

export interface SimulatedOptions {
  readonly seed: number;
  readonly deviceCount: number;
  /** Devices compute on host memory; several of them share it. */
  readonly computesInPlace: boolean;
  /** What the drive holds, by path. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** On which of several drives a path lies; default: there is one. */
  readonly driveOf?: (path: string) => number;
  /** Whether the n-th read request of all fails (after part of it has arrived). */
  readonly failsRead?: (request: number) => boolean;
  /** Whether the n-th kernel of a device fails it. */
  readonly breaks?: (device: number, kernel: number) => boolean;
  /** Default: all devices reach each other's memory. */
  readonly peerAccess?: boolean;
}

/** How fast each part is: drawn once per seed, over factors, so that every part is the slowest somewhere. */
interface Tempo {
  readonly noticeMs: number;
  readonly kernelMs: readonly number[];
  readonly linkBytesPerMs: readonly number[];
  readonly linkLatencyMs: number;
  readonly peerBytesPerMs: readonly number[];
  /** Peers share one path instead of having one each. */
  readonly sharedPeerLink: boolean;
}

class SimulatedDevice implements Device {
  readonly name: string;
  readonly computesInPlace: boolean;
  readonly compute: SimulatedStream;
  readonly fetch: SimulatedStream;
  readonly gather: SimulatedStream;
  readonly load: SimulatedStream;
  readonly store: SimulatedStream;
  readonly #allocate: (sizeBytes: number) => Memory;

  constructor(
    index: number,
    inPlace: boolean,
    world: StreamWorld,
    allocate: (sizeBytes: number, name: string) => Memory,
  ) {
    this.name = `sim:${index}`;
    this.computesInPlace = inPlace;
    this.compute = new SimulatedStream(`${this.name} compute`, index, world);
    this.fetch = new SimulatedStream(`${this.name} fetch`, index, world);
    this.gather = new SimulatedStream(`${this.name} gather`, index, world);
    this.load = new SimulatedStream(`${this.name} load`, index, world);
    this.store = new SimulatedStream(`${this.name} store`, index, world);
    this.#allocate = (sizeBytes) => allocate(sizeBytes, this.name);
  }

  allocate(sizeBytes: number): Memory {
    return this.#allocate(sizeBytes);
  }
}

export class SimulatedBackend implements Backend {
  readonly kind = 'simulated';
  readonly devices: readonly SimulatedDevice[];
  readonly peers: readonly (readonly boolean[])[];
  readonly collective: Collective = {
    deviceBytes: 0,
    gather: (buffers, shardBytes) => this.#gather(buffers.map(simulated), shardBytes),
  };
  readonly notes: readonly string[] = [];
  readonly #clock: VirtualClock;
  readonly #drives: readonly SimulatedDrive[];
  readonly #driveOf: (path: string) => number;
  readonly #holders = new WeakMap<FileRef, SimulatedDrive>();
  readonly #random: Random;
  readonly #tempo: Tempo;
  readonly #expected = new WeakMap<Tensor, Expectation>();
  /** By link name, when it is free again. */
  readonly #linkFreeMs = new Map<string, number>();
  #memories = 0;
  #gathers = 0;
  #hostBytes = 0;
  #deviceBytes = 0;

  constructor(options: SimulatedOptions) {
    const random = new Random(options.seed);
    this.#random = random.fork();
    this.#clock = new VirtualClock(random.fork(), () => this.#blocked());
    this.#tempo = drawTempo(random.fork(), options.deviceCount);
    const driveRandom = random.fork();
    const noticeMs = () => this.#noticeMs();
    this.#driveOf = options.driveOf ?? (() => 0);
    const count = 1 + Math.max(0, ...[...options.files.keys()].map(this.#driveOf));
    let requests = 0;
    // Each with rates of its own, so that they end far apart.
    this.#drives = Array.from({ length: count }, () => {
      const tempo = {
        latencyMs: driveRandom.spread(0.01, 1),
        bytesPerMs: driveRandom.spread(2e3, 2e6),
        lanes: driveRandom.between(1, 6),
      };
      return new SimulatedDrive({
        contents: options.files,
        clock: this.#clock,
        random: driveRandom,
        tempo,
        noticeMs,
        nextRequest: () => requests++,
        fails: options.failsRead ?? (() => false),
      });
    });
    const kernels = Array.from({ length: options.deviceCount }, () => 0);
    const world: StreamWorld = {
      clock: this.#clock,
      breaks: (device) => {
        const kernel = present(kernels[device], 'kernels so far');
        kernels[device] = kernel + 1;
        return options.breaks?.(device, kernel) ?? false;
      },
      noticeMs,
      kernelMs: (device) => present(this.#tempo.kernelMs[device], 'rate') * jitter(this.#random),
      transfer: (to, from, bytes) => this.#transfer(to, from, bytes),
      expected: (tensor) => this.#expected.get(tensor),
    };
    this.peers = kernels.map((_, a) => kernels.map((__, b) => a === b || (options.peerAccess ?? true)));
    this.devices = Array.from(
      { length: options.deviceCount },
      (_, index) =>
        new SimulatedDevice(index, options.computesInPlace, world, (sizeBytes, name) =>
          this.#allocate(sizeBytes, name, 'device', options.computesInPlace ? undefined : index),
        ),
    );
  }

  nowMs(): number {
    return this.#clock.nowMs;
  }

  allocateHost(sizeBytes: number, purpose: HostPurpose): HostMemory {
    return this.#allocate(sizeBytes, `host ${purpose}`, purpose, undefined);
  }

  openWorker(device: Device): HostWorker {
    const mail = this.#allocate(MAIL_WORDS * 4, 'host mail', 'shared', undefined);
    const opMs = () => this.#tempo.noticeMs * jitter(this.#random);
    return new SimulatedWorker(`host of ${device.name}`, mail, this.#clock, opMs);
  }

  openExchange(devices: readonly Device[], sizeBytes: number): SimulatedExchange[] {
    const group: SimulatedExchange[] = [];
    const like = { count: devices.length, sizeBytes: Math.floor(sizeBytes / 4) * 4 };
    for (const device of devices) {
      const index = this.devices.indexOf(device as SimulatedDevice);
      const inbox = this.#allocate(2 * like.count * sizeBytes, `sums of ${device.name}`, 'device', index);
      const end = new SimulatedExchange(group, { id: inbox.id + 1, ...like }, inbox, this.#clock);
      present(this.devices[index], 'a device of this backend').compute.takePart(end);
    }
    return group;
  }

  closeExchange(ends: readonly Exchange[]): void {
    for (const end of ends)
      (end as SimulatedExchange).fail({ error: new Error('the group of devices was closed') });
  }

  openFile(path: string): FileRef {
    const drive = present(this.#drives[this.#driveOf(path)], 'drive');
    const file = drive.openFile(path);
    this.#holders.set(file, drive);
    return file;
  }

  /** Its files are in memory, and stay as they are. */
  checkFiles(): void {}

  /** Settles only when no drive can touch the memory any more. */
  async read(requests: readonly ReadRequest[], into: HostMemory): Promise<ReadSpan> {
    const startMs = this.#clock.nowMs;
    const byDrive = new Map<SimulatedDrive, ReadRequest[]>();
    for (const request of requests) {
      const drive = this.#holderOf(request);
      byDrive.set(drive, [...(byDrive.get(drive) ?? []), request]);
    }
    const ended = await Promise.allSettled([...byDrive].map(([drive, wanted]) => drive.read(wanted, into)));
    let bytes = 0;
    for (const one of ended) {
      if (one.status === 'rejected') throw one.reason;
      bytes += one.value.bytes;
    }
    return { startMs, endMs: this.#clock.nowMs, bytes };
  }

  #holderOf({ file }: ReadRequest): SimulatedDrive {
    return present(this.#holders.get(file), 'drive of the file');
  }

  driveFigures(): readonly DriveFigures[] {
    return this.#drives.map(({ figures }) => figures);
  }

  filePieces(pieces: readonly (readonly ReadRequest[])[], into: Memory): FilePieces {
    return new SimulatedPieces(
      pieces,
      (request) => this.#holderOf(request).contentOf(request),
      (requests) => this.read(requests, simulated(into)),
    );
  }

  async close(): Promise<void> {
    this.#clock.close(new OperatingError('INTERRUPTED', 'the simulated backend was closed'));
  }

  /**
   * The promise; or rejects at once with a HazardError when something overlapped, or with a DeadlockError when
   * nothing is left that could settle it. Await everything that depends on virtual time through this.
   */
  until<T>(promise: Promise<T>, what: string): Promise<T> {
    return this.#clock.until(promise, what);
  }

  /** Resolves that much virtual time from now. */
  sleep(durationMs: number): Promise<void> {
    const awake = this.#clock.deferred<void>('a sleeper');
    this.#clock.after(durationMs, () => awake.resolve());
    return awake.promise;
  }

  /** From now on a kernel that reads this very tensor must find these bytes. */
  expectContent(tensor: Tensor, name: string, hash: number): void {
    this.#expected.set(tensor, { name, hash });
  }

  /** The hash of a tensor's present content, as `expectContent` takes it. */
  hashOf(tensor: Tensor): number {
    return tensorHash(tensor);
  }

  get driveStats(): DriveStats {
    return this.#drives.reduce<DriveStats>(
      (sum, { stats }) => ({
        requests: sum.requests + stats.requests,
        pieces: sum.pieces + stats.pieces,
        inFlight: sum.inFlight + stats.inFlight,
      }),
      { requests: 0, pieces: 0, inFlight: 0 },
    );
  }

  /** Everything that was ever allocated. */
  get allocated(): { readonly hostBytes: number; readonly deviceBytes: number } {
    return { hostBytes: this.#hostBytes, deviceBytes: this.#deviceBytes };
  }

  #allocate(sizeBytes: number, owner: string, purpose: Purpose, device: number | undefined): SimulatedMemory {
    const id = this.#memories++;
    if (device === undefined) this.#hostBytes += sizeBytes;
    else this.#deviceBytes += sizeBytes;
    const garbage = this.#random.between(1, 255);
    return new SimulatedMemory(id, sizeBytes, `${owner} memory ${id}`, purpose, device, garbage);
  }

  #gather(memories: readonly SimulatedMemory[], shardBytes: number): void {
    assert(memories.length === this.devices.length, 'every device takes part in a gather');
    const name = `gather ${this.#gathers++}`;
    const slowest = Math.min(...this.#tempo.peerBytesPerMs);
    const durationMs = () => (this.#tempo.linkLatencyMs + shardBytes / slowest) * jitter(this.#random);
    const gather = new SimulatedGather(name, this.#clock, durationMs, memories, shardBytes);
    for (const device of this.devices) device.gather.join(gather);
  }

  #noticeMs(): number {
    // The JavaScript thread hears at once, or after it has done something else for a while.
    return this.#random.chance(0.3) ? 0 : this.#tempo.noticeMs * jitter(this.#random);
  }

  #transfer(
    to: SimulatedMemory,
    from: SimulatedMemory,
    bytes: number,
  ): { startMs: number; durationMs: number } {
    const tempo = this.#tempo;
    const reader = to.device ?? from.device ?? 0;
    let [link, rate] = [`host ${reader}`, present(tempo.linkBytesPerMs[reader], 'rate')];
    if (to.device !== undefined && from.device !== undefined) {
      rate = present(tempo.peerBytesPerMs[reader], 'rate');
      link = tempo.sharedPeerLink ? 'peers' : `peer ${reader}`;
    }
    const { nowMs } = this.#clock;
    const startMs = Math.max(nowMs, this.#linkFreeMs.get(link) ?? 0);
    const durationMs = (tempo.linkLatencyMs + bytes / rate) * jitter(this.#random);
    this.#linkFreeMs.set(link, startMs + durationMs);
    return { startMs, durationMs };
  }

  #blocked(): string {
    const streams = this.devices.flatMap(({ compute, fetch, gather, load, store }) => [
      compute,
      fetch,
      gather,
      load,
      store,
    ]);
    return streams.flatMap(({ blockedOn }) => blockedOn ?? []).join('; ') || 'no stream waits';
  }
}

function drawTempo(random: Random, deviceCount: number): Tempo {
  const perDevice = (low: number, high: number) => {
    const common = random.spread(low, high);
    return Array.from({ length: deviceCount }, () => common * random.spread(0.3, 3));
  };
  return {
    noticeMs: random.spread(0.001, 0.3),
    kernelMs: perDevice(0.002, 0.5),
    linkBytesPerMs: perDevice(1e3, 1e6),
    linkLatencyMs: random.spread(0.001, 0.1),
    peerBytesPerMs: perDevice(1e3, 1e6),
    sharedPeerLink: random.chance(0.3),
  };
}
