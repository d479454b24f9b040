// How many threads are worth starting here: the processors that this process may run on, and what its quota leaves of them.

import { availableParallelism } from 'node:os';
import { native } from '../port/native.js';
import { groupFolders, type ReadText, readText } from './control-group.js';
import { machineTopology, processorsByNode } from './numa.js';

export interface Processors {
  /** Those that the system lets this process run on. */
  readonly cores: number;
  /** How many of them it may keep busy, such as 0.5; undefined without a quota. */
  readonly quotaCores: number | undefined;
  /** Threads that keep them busy, and no more: whoever is over a quota stands still, and the others wait for it. */
  readonly threads: number;
}

export function usableProcessors(
  read: ReadText = readText,
  cores: number = availableParallelism(),
): Processors {
  const quotaCores = tightestQuota(read);
  const threads = Math.max(1, Math.min(cores, Math.ceil(quotaCores ?? cores)));
  return { cores, quotaCores, threads };
}

/** How many threads compute where `wanted` were asked for: never more than there are cores, which helps nobody. */
export function computeThreads(wanted?: number): number {
  const { cores, threads } = usableProcessors();
  return Math.min(wanted ?? threads, cores);
}

/** One thread runs JavaScript, and one looks out for what a device asks. */
const FEEDING_THREADS = 2;

/** How many of so many threads are free to compute beside a device with memory of its own; none or fewer on small machines. */
export function threadsBeside(threads: number): number {
  return threads - FEEDING_THREADS;
}

/** Starts the threads that compute, spread over the nodes of memory where there are several; why there are fewer, or ''. */
export function startComputing(threads: number, isa?: string): string {
  const lists = processorsByNode(machineTopology());
  return native().configureCpu({
    threads,
    ...(isa === undefined ? {} : { isa }),
    ...(lists ? { processorsByNode: lists } : {}),
  });
}

/** How many threads the system allows beside those there are, counted up to `wanted`. */
export function startableThreads(wanted: number): number {
  return native().startableThreads(wanted);
}

/** Docker's --cpus and Kubernetes' limits.cpu, of the group and of those above it. */
function tightestQuota(read: ReadText): number | undefined {
  let tightest: number | undefined;
  for (const folder of groupFolders(read, 'cpu')) {
    // Version 2 writes `max 100000` for "no limit", version 1 a quota of -1.
    const [quota = Number.NaN, period = Number.NaN] =
      read(`${folder}/cpu.max`)?.trim().split(/\s+/).map(Number) ??
      ['cfs_quota_us', 'cfs_period_us'].map((name) => Number(read(`${folder}/cpu.${name}`)));
    const cores = quota / period;
    if (quota > 0 && cores > 0 && cores < (tightest ?? Number.POSITIVE_INFINITY)) tightest = cores;
  }
  return tightest;
}
