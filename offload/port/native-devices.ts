// What the addon has of queues of work, on the processor and on GPUs, and of GPUs themselves.

import type { ShareRates, ShareRule } from './shares.js';

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

/** As HostWorker of backend.ts. */
export interface NativeHostWorker {
  readonly failure: string;
  readonly rates: ShareRates;
  /** Several operations, each after a number with its length. Throws on operands that do not fit. */
  define(words: Float64Array): number;
  forget(job: number): void;
  begin(): void;
  end(): void;
  share(rule: ShareRule, rates: ShareRates): void;
  /** Whoever waits for a job waits no longer. Returns when the thread has ended. */
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
  /** @param kept a number from 1 that stands for exactly these words in every call: they are not looked at again */
  launchAll(words: Float64Array, kept?: number): void;
  record(): NativeEvent;
  wait(event: NativeEvent): void;
  /** Rejects the promises that wait; resolves when what was queued has run and its memory may be freed. */
  close(): Promise<void>;
}

/** One device's end of what a group of devices sums through. */
export interface NativeExchange {
  readonly id: number;
  /** What it takes of its device's memory. */
  readonly deviceBytes: number;
  /** No device waits for another any more. */
  close(): void;
  /** Call when no stream of the group runs any more. */
  free(): void;
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
  /** Rows of weights that are stored in parts, as values. */
  readonly weights: number;
  /** Parts of attention over long contexts, or logits that a token is drawn from. */
  readonly partials: number;
  /** The workspace of the library for products, which does not depend on the operations. */
  readonly products: number;
}
