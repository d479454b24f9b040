// What the benchmarks of products on the CPU begin with: the addon's threads and instruction set, a stream, and touched memory.

import { availableParallelism } from 'node:os';
import { detectHardware, lastCacheBytes } from '../offload/measure/hardware.js';
import { native } from '../offload/port/native.js';
import type { NativeMemory } from '../offload/port/native-io.js';

/** As often as this what is passed over again and again exceeds the last caches, which keep hardly anything of it then. */
const TIMES_CACHES = 8;

/** So much memory that it is cold whenever it is passed over again, though an eighth of what is available at most. */
export function coldBytes(leastBytes: number): number {
  const wanted = Math.max(leastBytes, TIMES_CACHES * lastCacheBytes());
  return Math.floor(Math.min(wanted, Math.max(leastBytes, detectHardware().dramAvailableBytes / 8)));
}

/** `threads` '0' takes all; `isa` undefined what a run takes by itself. */
export function openProducts({ threads: wanted, isa }: { threads: string; isa?: string | undefined }) {
  const threads = Number(wanted) || availableParallelism();
  const addon = native();
  addon.configureCpu({ threads, ...(isa === undefined ? {} : { isa }) });
  return {
    addon,
    threads,
    /** As much as each thread must read for the rate to last. */
    readBytes: threads * 2 ** 28,
    stream: addon.createStream('bench'),
    allocate(sizeBytes: number): NativeMemory {
      const memory = new addon.NativeMemory(sizeBytes, true);
      memory.populate(threads);
      return memory;
    },
  };
}
