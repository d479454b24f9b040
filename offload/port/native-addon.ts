// The addon's functions and classes, typed.

import type { ErrorCode } from '../errors.js';
import type {
  CudaStatus,
  NativeCudaStream,
  NativeDeviceMemory,
  NativeExchange,
  NativeGatherer,
  NativeHostWorker,
  NativeStream,
  ScratchBytes,
} from './native-devices.js';
import type { IoOptions, NativeIo, NativeMemory } from './native-io.js';
import type { QuantiseJob, QuantiseLoss } from './native-quantise.js';

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
  /** Instruction sets of this processor that the kernels know, e.g. ['avx2', 'avx512', 'avx512bf16', 'amx', 'amxbf16']. */
  instructionSets(): string[];
  /**
   * Pool that all streams share, used from the next operation on; 0 threads: one per processor. `isa` forces a kernel
   * set; by default the best of 'avx2' and 'avx512', which round no inputs. Returns why there are fewer threads than wanted,
   * or an empty sentence. With `processorsByNode` threads are spread over these sets of processors.
   */
  configureCpu(options: {
    readonly threads: number;
    readonly isa?: string;
    readonly processorsByNode?: readonly (readonly number[])[];
  }): string;
  /** Starts up to `wanted` threads that do nothing, and ends them: how many the system allows beside those there are. */
  startableThreads(wanted: number): number;
  readonly NativeMemory: new (sizeBytes: number, hugePages: boolean) => NativeMemory;
  createIo(options: IoOptions): NativeIo;
  /** How it reads encoded operations: the lines of `operationTable` where it is of these sources. */
  operationTable(): string[];
  createStream(name: string): NativeStream;
  /** An end for each stream. One that fails, or is closed, fails all. Throws where there is no room for a value. */
  openHostExchange(streams: readonly NativeStream[], sizeBytes: number): NativeExchange[];
  /** On the pool of `configureCpu`. Throws where the mailbox is too small, and where no thread can be started. */
  readonly NativeHostWorker: new (
    name: string,
    mailboxId: number,
  ) => NativeHostWorker;
  /** On the pool of `configureCpu`, beside the event loop. Throws for what reaches beyond a memory. */
  quantise(job: QuantiseJob): Promise<QuantiseLoss>;
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
  /**
   * An end for each device; a failure of any ends the waiting of all. Throws where there is too little memory.
   * @param throughHost by memory of the host, as where devices do not reach each other's
   */
  openCudaExchange(devices: readonly number[], sizeBytes: number, throughHost: boolean): NativeExchange[];
  /** [i][j]: the i-th device reaches the j-th one's memory without the host in between. Throws without a GPU. */
  cudaPeerAccess(devices: readonly number[]): boolean[][];
  /** Page-locks host memory for all GPUs; kernels and copies at full rate reach it then. */
  pinMemory(id: number): void;
  /** The same beside the event loop: it takes tens of milliseconds per gigabyte that was touched, more where not. */
  pinMemorySoon(id: number): Promise<void>;
  /** Bytes per second at which that many threads read cold memory. Waits for the result; for benchmarks. */
  measureReadBandwidth(bytes: number, threads: number): number;
  /**
   * The same beside the event loop, for so many milliseconds at the end, when memory has been prepared. Caches are not emptied, so
   * `bytes` has to be many times theirs.
   */
  measureReadBandwidthBeside(bytes: number, threads: number, forMs: number): Promise<number>;
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
