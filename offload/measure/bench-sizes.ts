// How large the operands are that kernels are measured with, for a processor, a small control group, and a GPU.

import { MiB, roundDown } from '../units.js';

/** How large operands are, so that a device is busy with them and none is in a cache when its turn comes. */
export interface BenchSizes {
  /** Weights, keys and values are taken in turn from as much memory as this. */
  readonly coldBytes: number;
  readonly scratchBytes: number;
  /** Outputs and inputs of a product. */
  readonly weightShape: readonly [number, number];
  readonly tokens: readonly number[];
  readonly heads: number;
  readonly kvHeads: number;
  /** Sequences and their lengths, whose next token attends. */
  readonly decode: readonly [number, number];
  /** Prompts and their lengths, that attend to themselves. */
  readonly prompt: readonly [number, number];
  /** Rows of what norms, gated activations and sums are measured with. */
  readonly rows: number;
  /** Operations are queued for that long at least; in place longer than what a scheduler gives a thread at once. */
  readonly batchMs: number;
}

const CPU_SIZES: BenchSizes = {
  coldBytes: 160 * MiB,
  scratchBytes: 64 * MiB,
  // Short rows are a little slower than long ones: what starts and ends a row is paid more often.
  weightShape: [4096, 2048],
  tokens: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
  heads: 16,
  kvHeads: 8,
  decode: [8, 1024],
  prompt: [1, 256],
  rows: 128,
  batchMs: 40,
};
/** For groups with little memory: a process of 200 MiB measures with these. */
const SMALL_CPU_SIZES: BenchSizes = {
  ...CPU_SIZES,
  coldBytes: 48 * MiB,
  scratchBytes: 32 * MiB,
  weightShape: [2048, 2048],
  decode: [4, 1024],
};
const MOST_COLD_BYTES = 512 * MiB;
export const GPU_SIZES: BenchSizes = {
  coldBytes: 512 * MiB,
  scratchBytes: 512 * MiB,
  weightShape: [16384, 4096],
  tokens: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192],
  heads: 32,
  kvHeads: 32,
  decode: [16, 1024],
  prompt: [16, 512],
  rows: 2048,
  batchMs: 10,
};

/** Cold enough that no cache holds it all, where there is memory for that; a quarter of what is available at most. */
export function cpuBenchSizes(availableBytes: number, cacheBytes: number): BenchSizes {
  const { coldBytes, scratchBytes } = CPU_SIZES;
  if (availableBytes < 2 * (coldBytes + scratchBytes)) return SMALL_CPU_SIZES;
  const wanted = Math.min(2 * cacheBytes, MOST_COLD_BYTES, availableBytes / 4);
  return { ...CPU_SIZES, coldBytes: Math.max(coldBytes, roundDown(wanted, MiB)) };
}
