// A simulated drive: reads that arrive in pieces at odd times, out of order, late, short, or not at all.

import { assert, OperatingError, present } from '../../offload/errors.js';
import type { DriveFigures, FileRef, HostMemory, ReadRequest, ReadSpan } from '../../offload/port/backend.js';
import { READ_ALIGNMENT_BYTES } from '../../offload/port/backend.js';
import type { VirtualClock } from './clock.js';
import { type Access, beginAccess, endAccess, type SimulatedMemory, simulated } from './memory.js';
import type { Random } from './random.js';

export interface DriveTempo {
  readonly latencyMs: number;
  readonly bytesPerMs: number;
  /** Requests served at once. */
  readonly lanes: number;
}

export interface DriveStats {
  readonly requests: number;
  readonly pieces: number;
  /** Requests that nobody has heard the end of. */
  readonly inFlight: number;
}

export class SimulatedDrive {
  readonly #contents: ReadonlyMap<string, Uint8Array>;
  readonly #clock: VirtualClock;
  readonly #random: Random;
  readonly #tempo: DriveTempo;
  readonly #noticeMs: () => number;
  readonly #nextRequest: () => number;
  readonly #fails: (request: number) => boolean;
  readonly #files: FileRef[] = [];
  readonly #laneFreeMs: number[];
  #requests = 0;
  #pieces = 0;
  #inFlight = 0;
  #bytes = 0;
  #busyMs = 0;
  #busySinceMs = 0;

  constructor(options: {
    readonly contents: ReadonlyMap<string, Uint8Array>;
    readonly clock: VirtualClock;
    readonly random: Random;
    readonly tempo: DriveTempo;
    readonly noticeMs: () => number;
    /** The number of a request among those of all drives. */
    readonly nextRequest: () => number;
    /** Whether the n-th request of all fails. */
    readonly fails: (request: number) => boolean;
  }) {
    this.#contents = options.contents;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#tempo = options.tempo;
    this.#noticeMs = options.noticeMs;
    this.#nextRequest = options.nextRequest;
    this.#fails = options.fails;
    this.#laneFreeMs = new Array<number>(options.tempo.lanes).fill(0);
  }

  get stats(): DriveStats {
    return { requests: this.#requests, pieces: this.#pieces, inFlight: this.#inFlight };
  }

  get figures(): DriveFigures {
    return { bytes: this.#bytes, busyMs: this.#busyMs };
  }

  openFile(path: string): FileRef {
    const content = this.#contents.get(path);
    if (!content) throw new OperatingError('NOT_FOUND', `${path} cannot be opened: no such file`);
    const file = { file: this.#files.length, path, sizeBytes: content.length, direct: true };
    this.#files.push(file);
    return file;
  }

  /** What a read would bring; less than `sizeBytes` at the end of the file. */
  contentOf({ file, fileOffset, sizeBytes, requiredBytes }: ReadRequest): Uint8Array {
    assert(
      fileOffset % READ_ALIGNMENT_BYTES === 0 && sizeBytes % READ_ALIGNMENT_BYTES === 0,
      'reads are aligned',
    );
    const content = present(this.#contents.get(present(this.#files[file.file], 'file').path), 'content');
    assert(fileOffset + requiredBytes <= content.length, 'the file has what is wanted');
    return content.subarray(fileOffset, fileOffset + sizeBytes);
  }

  /** Settles only when no request of the batch can touch the memory any more, even when one failed. */
  async read(requests: readonly ReadRequest[], into: HostMemory): Promise<ReadSpan> {
    const startMs = this.#clock.nowMs;
    const memory = simulated(into);
    const results = await Promise.allSettled(requests.map((request) => this.#readOne(request, memory)));
    let bytes = 0;
    for (const result of results) {
      if (result.status === 'rejected') throw result.reason;
      bytes += result.value;
    }
    return { startMs, endMs: this.#clock.nowMs, bytes };
  }

  #readOne(request: ReadRequest, memory: SimulatedMemory): Promise<number> {
    const { file, fileOffset, sizeBytes, requiredBytes, memoryOffset } = request;
    for (const value of [fileOffset, sizeBytes, memoryOffset]) {
      assert(value % READ_ALIGNMENT_BYTES === 0, 'reads are aligned');
    }
    assert(requiredBytes <= sizeBytes && memoryOffset + sizeBytes <= memory.sizeBytes, 'the read fits');
    const content = present(this.#contents.get(present(this.#files[file.file], 'file').path), 'content');
    this.#requests++;
    const number = this.#nextRequest();
    const who = `read ${number} of ${file.path} at ${fileOffset}`;
    const done = this.#clock.deferred<number>(who);
    if (this.#clock.failure) return done.promise;
    const end = memoryOffset + sizeBytes;
    const access: Access = {
      who,
      startMs: this.#clock.nowMs,
      reads: [],
      writes: [{ memory, start: memoryOffset, end }],
    };
    try {
      beginAccess(access);
    } catch (error) {
      this.#clock.fail(error);
      return done.promise;
    }
    if (this.#inFlight++ === 0) this.#busySinceMs = this.#clock.nowMs;
    // From now on the drive may write at any time, so nothing there can be relied on.
    memory.written.fill(memory.purpose === 'control' ? 1 : 0, memoryOffset, end);
    const available = Math.max(0, Math.min(sizeBytes, content.length - fileOffset));
    const failure = this.#failureOf(number, file, fileOffset + available, available < requiredBytes);
    const pieces = this.#cut(available);
    const times = this.#arrivals(sizeBytes, pieces.length);
    let arrived = 0;
    pieces.forEach(([from, to], index) => {
      this.#pieces++;
      this.#clock.after(present(times[index], 'time') - this.#clock.nowMs, () => {
        const last = ++arrived === pieces.length;
        if (!(last && failure)) {
          memory.bytes.set(content.subarray(fileOffset + from, fileOffset + to), memoryOffset + from);
          memory.written.fill(1, memoryOffset + from, memoryOffset + to);
        }
        if (!last) return;
        endAccess(access);
        this.#clock.after(this.#noticeMs(), () => {
          this.#bytes += available;
          if (--this.#inFlight === 0) this.#busyMs += this.#clock.nowMs - this.#busySinceMs;
          if (failure) done.reject(failure);
          else done.resolve(available);
        });
      });
    });
    return done.promise;
  }

  #failureOf(number: number, file: FileRef, endOffset: number, short: boolean): OperatingError | undefined {
    if (short) {
      return new OperatingError(
        'FILE_CHANGED',
        `${file.path} ended at offset ${endOffset} although its header promises more: the file shrank while it was in use`,
      );
    }
    if (!this.#fails(number)) return undefined;
    return new OperatingError('READ_FAILED', `${file.path} cannot be read at offset ${endOffset} (EIO)`);
  }

  /** One to three pieces, as the real engine sees when reads end early and are continued. */
  #cut(sizeBytes: number): [number, number][] {
    const cuts = new Set([0, sizeBytes]);
    const most = this.#random.between(0, 2);
    for (let i = 0; i < most && sizeBytes > 1; i++) cuts.add(this.#random.between(1, sizeBytes - 1));
    const sorted = [...cuts].sort((a, b) => a - b);
    return sorted.slice(0, Math.max(1, sorted.length - 1)).map((from, i) => [from, sorted[i + 1] ?? from]);
  }

  /** Times in no particular order; the request holds one of the drive's lanes until the last of them. */
  #arrivals(sizeBytes: number, count: number): number[] {
    const { latencyMs, bytesPerMs } = this.#tempo;
    const lane = this.#laneFreeMs.indexOf(Math.min(...this.#laneFreeMs));
    const startMs = Math.max(this.#clock.nowMs, this.#laneFreeMs[lane] ?? 0);
    const durationMs = (latencyMs + sizeBytes / bytesPerMs) * jitter(this.#random);
    this.#laneFreeMs[lane] = startMs + durationMs;
    const times = Array.from({ length: count - 1 }, () => startMs + this.#random.unit() * durationMs);
    return this.#random.shuffled([...times, startMs + durationMs]);
  }
}

/** Mostly near one; sometimes something is much faster, or stalls. */
export function jitter(random: Random): number {
  const kind = random.unit();
  if (kind < 0.05) return random.spread(5, 40);
  if (kind < 0.2) return random.spread(0.02, 0.5);
  return random.spread(0.7, 1.6);
}
