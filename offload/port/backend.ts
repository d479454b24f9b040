// The port every kind of device implements: memory, streams with events, copies, kernels, and reads from files.

import type { Exchange } from './exchange.js';
import type { FilePieces } from './file-pieces.js';
import type { FileState } from './file-state.js';
import type { Memory, Op } from './ops.js';
import type { ShareRates, ShareRule } from './shares.js';

/** A point in a stream's work, as in CUDA. */
export interface DeviceEvent {
  /** When the stream reached it, in milliseconds of `Backend.nowMs`; NaN before. */
  readonly timeMs: number;
  /**
   * Resolves when the stream reaches it; rejects when the device failed or the backend was closed.
   * @param urgent the device idles until the host knows, so that a processor may be kept busy with looking
   */
  reached(urgent?: boolean): Promise<void>;
}

/** Work that a stream has taken in without queueing it, as it is queued again and again. */
export interface KeptWork {
  /** How many operations and copies it is. */
  readonly count: number;
}

/** Rows of as many bytes each, which follow each other at a distance of its own in either memory. */
export interface RowCopy {
  readonly to: Memory;
  readonly toOffsetBytes: number;
  /** From one row's first byte to the next one's: `rowBytes` or more. */
  readonly toStrideBytes: number;
  readonly from: Memory;
  readonly fromOffsetBytes: number;
  readonly fromStrideBytes: number;
  readonly rowBytes: number;
  readonly rows: number;
}

/** What operations are queued on. */
export interface OpStream {
  launch(op: Op): void;
}

/** A queue of work that runs in order, beside other streams. No call here waits for the device. */
export interface DeviceStream extends OpStream {
  /** Copies between any two memories the device can reach: its own, the host's, a peer's. */
  copy(to: Memory, toOffsetBytes: number, from: Memory, fromOffsetBytes: number, sizeBytes: number): void;
  /** The same with parts of rows, such as some columns of a matrix. Within one memory the two stretches must not overlap. */
  copyRows(copy: RowCopy): void;
  record(): DeviceEvent;
  /** Work queued after this runs only once `event` is reached; the event may be of another device. */
  wait(event: DeviceEvent): void;
  /** What `queue` launches and copies here is not queued but kept. It may neither record nor wait. */
  keep(queue: () => void): KeptWork;
  /** Queues what this stream has kept, as often as it is called. */
  repeat(work: KeptWork): void;
}

export interface Device {
  /** `cpu`, `cuda:0`, … */
  readonly name: string;
  /** The device computes on host buffers where they lie: no dram→gpu hop, no layer buffers of its own. */
  readonly computesInPlace: boolean;
  readonly compute: DeviceStream;
  /** Carries the dram→gpu hop. */
  readonly fetch: DeviceStream;
  /** Carries the gather hop. */
  readonly gather: DeviceStream;
  /** Carry keys and values that rest in DRAM to the device, and back. */
  readonly load: DeviceStream;
  readonly store: DeviceStream;
  allocate(sizeBytes: number): Memory;
}

/** Memory that JavaScript, the drives and every device's kernels and copies can reach. */
export interface HostMemory extends Memory {
  /** The bytes themselves; one stable view per block. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export interface FileRef {
  readonly file: number;
  readonly path: string;
  readonly sizeBytes: number;
  /** Reads bypass the page cache. */
  readonly direct: boolean;
}

/** One contiguous read. It may stop at the end of the file once `requiredBytes` have arrived. */
export interface ReadRequest {
  readonly file: FileRef;
  readonly fileOffset: number;
  readonly sizeBytes: number;
  readonly requiredBytes: number;
  readonly memoryOffset: number;
}

export interface ReadSpan {
  readonly startMs: number;
  readonly endMs: number;
  readonly bytes: number;
}

/** What a drive did since the backend was opened. */
export interface DriveFigures {
  readonly bytes: number;
  /** At least one read was with it. */
  readonly busyMs: number;
}

export type HostPurpose =
  /** A buffer that layers pass through: used again all the time, so registered with the ring and pinned. */
  | 'stream'
  /** A layer that rests in DRAM: written once, touched by the read itself. */
  | 'resident'
  /** What rests in DRAM and kernels read in place, a little at a time: a read is done when devices reach it, and fails where they cannot. */
  | 'table'
  /** Keys and values that rest in DRAM: only devices' copies touch them. */
  | 'cache'
  /** What kernels of a device and the host's processor write for each other. */
  | 'shared'
  /** Small tables that JavaScript writes or reads. */
  | 'control';

/** Gathers in which all devices take part at once. */
export interface Collective {
  /** What it takes of each device's memory beside what is allocated. */
  readonly deviceBytes: number;
  /**
   * Queued on every device's gather stream, in place: the g-th `shardBytes` of `buffers[g]` come to lie at the same
   * place in all others, which hold `shardBytes` per device at least. Each device's part lasts until it has sent and
   * received all, and may begin while others are not there yet.
   */
  gather(buffers: readonly Memory[], shardBytes: number): void;
}

/** A thread that computes on the host's processor what a device asks for, while the device goes on. */
export interface HostWorker {
  /** i32 words that the device reaches: see host-ops.ts. */
  readonly mail: HostMemory;
  /** Operations on host memory that are run in order when a device asks for the job of this number. */
  define(ops: readonly Op[]): number;
  forget(job: number): void;
  /** Between these, which may nest, the worker looks out without sleeping for long. */
  begin(): void;
  end(): void;
  share(rule: ShareRule, rates: ShareRates): void;
  readonly rates: ShareRates;
  /** Why jobs fail; empty while none has. */
  readonly failure: string;
}

export interface Backend {
  readonly kind: 'cpu' | 'cuda' | 'simulated';
  readonly devices: readonly Device[];
  /** `peers[a][b]`: device a copies from b's memory without the host in between. */
  readonly peers: readonly (readonly boolean[])[];
  /** Undefined where the backend was opened without. */
  readonly collective: Collective | undefined;
  /** What was lost on this machine and why, a sentence each. */
  readonly notes: readonly string[];
  nowMs(): number;
  allocateHost(sizeBytes: number, purpose: HostPurpose): HostMemory;
  openFile(path: string): FileRef;
  /**
   * Throws FILE_CHANGED when a file that was opened here has been written to since, and READ_FAILED when an operation could not
   * read a piece of one.
   * @param expected by path, what must have been opened: the files as their headers were read
   */
  checkFiles(expected?: ReadonlyMap<string, FileState>): void;
  /**
   * Resolves when all requests are done; rejects with an OperatingError that names file and offset.
   * @param urgent a few bytes that work waits for: before what is queued
   */
  read(requests: readonly ReadRequest[], into: HostMemory, urgent?: boolean): Promise<ReadSpan>;
  /** By drive, in the order in which files on them were opened first. */
  driveFigures(): readonly DriveFigures[];
  /** A thread that computes on the processor what the device asks for. */
  openWorker(device: Device): HostWorker;
  /**
   * What these devices sum through, an end for each of them, in their order: see `reduce` in ops.ts. Throws DOES_NOT_FIT.
   * @param sizeBytes room for one partial; larger ones are summed in rounds
   */
  openExchange(devices: readonly Device[], sizeBytes: number): readonly Exchange[];
  /** No device of the group waits for another any more: what they sum from then on is nothing. */
  closeExchange(ends: readonly Exchange[]): void;
  /** A few reads for each piece, whose `memoryOffset` is where they begin in the piece's own place in `into`. */
  filePieces(pieces: readonly (readonly ReadRequest[])[], into: Memory): FilePieces;
  /** Stops all work: queued reads and kernels are dropped, running ones end soon, waiting promises reject. */
  close(): Promise<void>;
}

/** Offsets and sizes of reads are multiples of this: what O_DIRECT needs on every drive we know. */
export const READ_ALIGNMENT_BYTES = 4096;

/** Tensors on a device begin at multiples of this. */
export const DEVICE_ALIGNMENT_BYTES = 256;
