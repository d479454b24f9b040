// The typed surface of the native addon; the only file that loads it.

import { createRequire } from 'node:module';
import { type ErrorCode, OperatingError } from '../errors.js';
import { addonPath, howToBuild } from './addon-path.js';
import { operationTable } from './op-table.js';

/** Page-aligned host memory; stays mapped while queued work or a view refers to it. */
export interface NativeMemory {
  readonly id: number;
  readonly sizeBytes: number;
  view(offsetBytes: number, sizeBytes: number): ArrayBuffer;
  /** Touches every page with up to that many threads. */
  populate(threads: number): void;
  /** The same on a thread of the addon, one memory after the other, beside reads into it; does nothing before Linux 5.14. */
  populateSoon(): void;
  free(): void;
}

export type IoEngine = 'io_uring' | 'threads';

export interface IoOptions {
  /** `auto` takes io_uring and falls back to threads where it is not allowed. */
  readonly engine: 'auto' | IoEngine;
  /** Reads in flight at once. */
  readonly queueDepth: number;
  /** Larger reads are split into pieces of this size. A multiple of 4096. */
  readonly chunkBytes: number;
  /** Try O_DIRECT; files that refuse it are read buffered. */
  readonly direct: boolean;
  /** Try to register memory with the ring. */
  readonly fixedBuffers: boolean;
  readonly faults?: IoFaults;
}

/**
 * Test only: conditions that real machines show rarely, injected where the system calls return. Errno values are
 * `os.constants.errno`'s. Bytes that a fault withholds are overwritten, so a reader that does not fetch them again is
 * caught.
 */
export interface IoFaults {
  /** The ring cannot be created. */
  readonly ringInitErrno?: number;
  /** The kernel refuses to register buffers. */
  readonly registerErrno?: number;
  /** Opening with O_DIRECT fails. */
  readonly directOpenErrno?: number;
  /** Opening with O_DIRECT works, the first read fails. */
  readonly directReadErrno?: number;
  /** Every n-th read brings an odd half of its bytes. */
  readonly shortEveryN?: number;
  /** Every n-th read fails with EAGAIN. */
  readonly eagainEveryN?: number;
  /** The read that covers this byte of any file fails. */
  readonly errorAtFileOffset?: { readonly offset: number; readonly errno: number };
}

export interface OpenedFile {
  readonly file: number;
  /** To ask the system about it; open until the file is closed. */
  readonly descriptor: number;
  readonly sizeBytes: number;
  /** False: buffered reads, because O_DIRECT was not asked for or was refused. */
  readonly direct: boolean;
  /** Offsets, sizes and addresses of reads must be multiples of this (1 when buffered). */
  readonly alignmentBytes: number;
}

export interface IoStats {
  readonly bytes: number;
  readonly reads: number;
  /** Reads that ended early and were continued. */
  readonly shortReads: number;
  /** Reads retried after EAGAIN or EINTR. */
  readonly retries: number;
  readonly maxInFlight: number;
}

/** When a batch of reads started and ended, in milliseconds of `nowMs`. */
export interface IoSpan {
  readonly startMs: number;
  readonly endMs: number;
  readonly bytes: number;
}

/** Reason with which `read` rejects: a plain Error with these fields. */
export interface IoFailure {
  /** `EIO`, …; `ESHORT` when the file ended before the required bytes; `ECANCELED` after close(). */
  readonly errnoName: string;
  readonly file: number;
  readonly fileOffset: number;
  readonly message: string;
}

export const READ_WORDS = 6;

export interface NativeIo {
  readonly engine: IoEngine;
  /** Sentences that say what was lost and why (no io_uring, no registration, …); empty when nothing was. */
  readonly notes: readonly string[];
  /** Throws an Error with `code` ('ENOENT', …) where the file cannot be read. */
  open(path: string): OpenedFile;
  /** Reads already queued still finish. */
  closeFile(file: number): void;
  /** Registers memory as a fixed buffer; false when the kernel refuses (a note says why). */
  register(memory: NativeMemory): boolean;
  /** Registered memory stays mapped until this or close(), even after its free(). */
  unregister(memory: NativeMemory): void;
  /**
   * Queues a batch of reads, READ_WORDS numbers each: file, fileOffset, sizeBytes, requiredBytes, memory id, memoryOffset.
   * A read may end at the end of the file once requiredBytes have arrived. Resolves when all are done; when one fails,
   * rejects with an IoFailure once nothing writes into the batch's memory any more. Other batches go on.
   * `urgent`: before batches that are queued and not urgent.
   * Misuse (unknown ids, out of bounds, misaligned direct reads) throws TypeError or RangeError at once.
   */
  read(requests: Float64Array, urgent?: boolean): Promise<IoSpan>;
  stats(): IoStats;
  /** Rejects what is queued, waits for what is in flight, frees the ring. */
  close(): Promise<void>;
}

export interface NativeEvent {
  readonly done: boolean;
  /** When the event was reached, in milliseconds of `nowMs`; NaN before. */
  readonly timeMs: number;
  /** Resolves when the event is reached; rejects when its stream failed or was closed. `urgent`: a thread may spin. */
  promise(urgent?: boolean): Promise<void>;
}

export interface NativeStream {
  /** Queues one operation encoded by backends/op-encoding.ts. Throws on operands that do not fit. */
  launch(words: Float64Array): void;
  /** Several, each after a number with its length. Those before one that throws may have been queued. */
  launchAll(words: Float64Array): void;
  record(): NativeEvent;
  wait(event: NativeEvent): void;
  /** Drops queued work, stops running kernels between tiles; events then reject. Returns when the thread has ended. */
  close(): void;
}

/** Memory of a GPU. */
export interface NativeDeviceMemory {
  readonly id: number;
  readonly sizeBytes: number;
  /** Waits for what still uses it. */
  free(): void;
}

/** As NativeStream, on a GPU; `launch` also drops work after a failure, which events then reject with. */
export interface NativeCudaStream {
  launch(words: Float64Array): void;
  launchAll(words: Float64Array): void;
  record(): NativeEvent;
  wait(event: NativeEvent): void;
  /** Rejects the promises that wait; resolves when what was queued has run and its memory may be freed. */
  close(): Promise<void>;
}

/** Gathers by NCCL, in which all its devices take part at once. */
export interface NativeGatherer {
  /** What it took of a device's memory, at most. */
  readonly deviceBytes: number;
  /**
   * Queues on each stream: the i-th `shardBytes` of memories[i] come to lie at the same place in the others. Streams and
   * memory ids in the order of the devices. Where one has failed, nothing is queued.
   */
  gather(streams: readonly NativeCudaStream[], memories: readonly number[], shardBytes: number): void;
  /** Call when its streams are closed. */
  close(): Promise<void>;
}

export interface CudaDeviceInfo {
  readonly name: string;
  readonly busId: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** `9.0` */
  readonly computeCapability: string;
  readonly multiprocessors: number;
}

export interface CudaStatus {
  /** A sentence about what is missing; empty when all devices can be used. */
  readonly problem: string;
  /** There is a GPU, or a driver too old to say; whether or not it can be used. */
  readonly present: boolean;
  /** Where the library for matrix products was found. */
  readonly products: string;
  readonly devices: readonly CudaDeviceInfo[];
}

/** How much of a GPU's memory kernels take beside their operands, for each use as the most demanding one needs it. */
export interface ScratchBytes {
  /** Inputs of a product in its weights' type, and what rounding left of them. */
  readonly inputs: number;
  readonly rests: number;
  /** Products before their epilogue, and a bias in the type of the result. */
  readonly sums: number;
  readonly bias: number;
  /** The choices of a mixture, grouped by expert. */
  readonly choices: number;
  /** Parts of attention over long contexts, or logits that a token is drawn from. */
  readonly partials: number;
  /** The workspace of the library for products, which does not depend on the operations. */
  readonly products: number;
}

export interface NativeAddon {
  nowMs(): number;
  /**
   * Takes the system's lock on an open file, until the descriptor is closed or its process ends; false where somebody
   * else holds it. Throws an Error with `code` where the file system has no locks.
   */
  lockFile(descriptor: number): boolean;
  /**
   * Signals, by number, end the process with that exit status even while JavaScript or a call of ours waits: a second
   * one at once, the first after `patienceMs`, with its text to stderr. Whoever handles them already is called first.
   */
  watchSignals(texts: Readonly<Record<number, string>>, patienceMs: number, exitStatus: number): void;
  /** The text has been said. */
  signalTold(): void;
  /** Instruction sets of this processor that the kernels know, best last: e.g. ['avx2', 'avx512', 'avx512bf16']. */
  instructionSets(): string[];
  /**
   * Pool that all streams share, used from the next operation on; 0 threads: one per processor. `isa` forces a kernel
   * set; by default the best that rounds no inputs, so never 'avx512bf16'. Returns why there are fewer threads than wanted,
   * or an empty sentence.
   */
  configureCpu(options: { readonly threads: number; readonly isa?: string }): string;
  /** Starts up to `wanted` threads that do nothing, and ends them: how many the system allows beside those there are. */
  startableThreads(wanted: number): number;
  readonly NativeMemory: new (sizeBytes: number, hugePages: boolean) => NativeMemory;
  createIo(options: IoOptions): NativeIo;
  /** How it reads encoded operations: the lines of `operationTable` where it is of these sources. */
  operationTable(): string[];
  createStream(name: string): NativeStream;
  /** Never throws: says what is missing instead. */
  cudaStatus(): CudaStatus;
  /**
   * Starts the driver and its contexts on a thread of its own, so that cudaStatus() need not wait for all of it. Resolves
   * when it need not wait at all; never rejects.
   */
  warmCuda(): Promise<void>;
  cudaFreeBytes(device: number): number;
  /**
   * What kernels of a GPU take for themselves to run these operations (each after a number with its length), whose memories
   * need not exist, on machines without one too. With `reach`: the most that any number of tokens up to `rows` takes, in any
   * number of sequences over contexts up to `contextTokens`, of operations that have one token's operands.
   */
  cudaScratchBytes(
    words: Float64Array,
    reach?: { readonly rows: number; readonly contextTokens: number },
  ): ScratchBytes;
  /** Throws where the device has too little left. */
  readonly NativeDeviceMemory: new (
    device: number,
    sizeBytes: number,
  ) => NativeDeviceMemory;
  readonly NativeCudaStream: new (device: number, name: string, computes: boolean) => NativeCudaStream;
  /** A sentence about what NCCL lacks; empty when it can be loaded. */
  ncclProblem(): string;
  /** Loads NCCL, connects the devices and gathers once, which takes a second. Throws with a sentence. */
  readonly NativeGatherer: new (
    devices: readonly number[],
  ) => NativeGatherer;
  /** [i][j]: the i-th device reaches the j-th one's memory without the host in between. Throws without a GPU. */
  cudaPeerAccess(devices: readonly number[]): boolean[][];
  /** Page-locks host memory for all GPUs; kernels and copies at full rate reach it then. */
  pinMemory(id: number): void;
  /** The same beside the event loop: it takes tens of milliseconds per gigabyte that was touched, more where not. */
  pinMemorySoon(id: number): Promise<void>;
  /** Bytes per second at which that many threads read cold memory. Waits for the result; for benchmarks. */
  measureReadBandwidth(bytes: number, threads: number): number;
  /** f32 operations per second of that many threads, a multiply-add counting two. Waits for the result; for benchmarks. */
  measureFlops(threads: number): number;
  /** How errors with a code are made: misuse and what the system refuses are thrown as what this returns. */
  setErrorMaker(make: (code: ErrorCode, sentence: string) => Error): void;
  /** Test only: counts from now on what the system may refuse, and fails it once or `times` in a row from the n-th on. */
  injectFault(fault: InjectedFault): void;
  /** How often each point was passed since then. */
  passedFaultPoints(): Record<FaultPoint, number>;
}

/** What native/core/faults.h says of each. */
export type FaultPoint =
  | 'thread'
  | 'map'
  | 'scratch'
  | 'open'
  | 'directOpen'
  | 'directRead'
  | 'stat'
  | 'ring'
  | 'eventFd'
  | 'register'
  | 'registerFile'
  | 'submit'
  | 'await'
  | 'completion'
  | 'read'
  | 'shortRead';

export interface InjectedFault {
  readonly point: FaultPoint;
  /** From 1; 0 only counts. */
  readonly nth: number;
  readonly times?: number;
  /** Default: what this point usually fails with. */
  readonly errno?: number;
}

/** So that an addon of other sources is found out when it is loaded, and not by a call that it lacks. */
const EXPORTS: Readonly<Record<keyof NativeAddon, true>> = {
  nowMs: true,
  watchSignals: true,
  signalTold: true,
  lockFile: true,
  instructionSets: true,
  operationTable: true,
  configureCpu: true,
  NativeMemory: true,
  createIo: true,
  createStream: true,
  cudaStatus: true,
  warmCuda: true,
  cudaFreeBytes: true,
  cudaScratchBytes: true,
  NativeDeviceMemory: true,
  NativeCudaStream: true,
  ncclProblem: true,
  NativeGatherer: true,
  cudaPeerAccess: true,
  pinMemory: true,
  pinMemorySoon: true,
  measureReadBandwidth: true,
  measureFlops: true,
  startableThreads: true,
  setErrorMaker: true,
  injectFault: true,
  passedFaultPoints: true,
};

let loaded: NativeAddon | undefined;

/** `NativeAddon.watchSignals`, where there is an addon; whatever needs one says what is wrong with it. */
export function signalWatch(): NativeAddon['watchSignals'] | undefined {
  try {
    const addon = native();
    return (texts, patienceMs, exitStatus) => addon.watchSignals(texts, patienceMs, exitStatus);
  } catch (error) {
    if (error instanceof OperatingError) return undefined;
    throw error;
  }
}

export function signalTold(): void {
  loaded?.signalTold();
}

/**
 * Loads the addon once: the one that ZI_ADDON names, as another build of it may be tried, or the project's own. Throws
 * NOT_FOUND or UNSUPPORTED, with the line to run.
 */
export function native(): NativeAddon {
  loaded ??= load(addonPath());
  return loaded;
}

/** As `NativeAddon.lockFile`. */
export function lockFile(descriptor: number): boolean {
  return native().lockFile(descriptor);
}

function load(path: string): NativeAddon {
  let addon: NativeAddon;
  try {
    addon = createRequire(import.meta.url)(path) as NativeAddon;
  } catch (error) {
    throw cannotLoad(path, error instanceof Error ? error.message : String(error));
  }
  const lacking = Object.keys(EXPORTS).filter((name) => !(name in addon));
  if (lacking.length > 0) throw cannotLoad(path, `it is of other sources and has no ${lacking.join(', ')}`);
  const read = addon.operationTable();
  const written = operationTable();
  const other = written.findIndex((line, place) => line !== read[place]);
  if (other >= 0 || read.length > written.length) {
    const [one = 'nothing', two = 'nothing'] = other >= 0 ? [read[other], written[other]] : read.slice(-1);
    throw cannotLoad(path, `it is of other sources and reads \`${one}\` where \`${two}\` is written`);
  }
  addon.setErrorMaker((code, sentence) => new OperatingError(code, sentence));
  return addon;
}

function cannotLoad(path: string, why: string): OperatingError {
  return new OperatingError(
    'NOT_FOUND',
    `the native addon ${path} cannot be loaded (${why}): ${howToBuild()}, which builds it for this machine`,
  );
}
