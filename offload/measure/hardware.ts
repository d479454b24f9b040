// What the machine has: memory that may be used, and measured rates.

import { groupFolders, type ReadText, readText } from '../backends/control-group.js';
import { computeThreads } from '../backends/processors.js';
import { native } from '../port/native.js';
import { GiB, KiB, MiB } from '../units.js';

export interface Hardware {
  /** Memory that may be taken without swapping: the smaller of what is available and what the control group allows. */
  readonly dramAvailableBytes: number;
  /** What the control group allows in all; undefined without a limit. */
  readonly limitBytes: number | undefined;
  /** What the machine has, or the control group allows if that is less. */
  readonly totalBytes: number;
}

export function detectHardware(): Hardware {
  const available = meminfo('MemAvailable') ?? 4 * GiB;
  const group = tightestGroup(readText);
  return {
    dramAvailableBytes: group ? Math.min(available, group.leftBytes) : available,
    limitBytes: group?.limitBytes,
    totalBytes: Math.min(
      meminfo('MemTotal') ?? Number.POSITIVE_INFINITY,
      group?.limitBytes ?? Number.POSITIVE_INFINITY,
    ),
  };
}

export interface ComputeLimits {
  /** Reading cold memory. */
  readonly memoryBytesPerSecond: number;
  /** f32 multiply-adds on registers, counting two each. */
  readonly flopsPerSecond: number;
}

/**
 * What each thread reads. Memory yields half as much again to a burst of a few milliseconds as it does to passes over
 * gigabytes: 16 threads took 256 MiB at 165 GB/s where they get 104 of 8 GiB.
 */
const READ_BYTES_PER_THREAD = 256 * MiB;
const MOST_READ_BYTES = 4 * GiB;

/**
 * Bytes that are read to measure memory: as many as the caches hold at least, which are flushed before, and a quarter of
 * what is available at most.
 */
export function measuredReadBytes(threads: number, cacheBytes: number, availableBytes: number): number {
  const wanted = Math.max(threads * READ_BYTES_PER_THREAD, cacheBytes);
  return Math.max(MiB, Math.floor(Math.min(wanted, MOST_READ_BYTES, availableBytes / 4)));
}

/**
 * With as many threads as compute has where `wanted` were asked for. Blocks for about a second, and takes
 * `measuredReadBytes` of memory meanwhile.
 */
export function measureComputeLimits(wanted?: number): ComputeLimits {
  const threads = computeThreads(wanted);
  const bytes = measuredReadBytes(threads, lastCacheBytes(), detectHardware().dramAvailableBytes);
  return {
    memoryBytesPerSecond: native().measureReadBandwidth(bytes, threads),
    flopsPerSecond: native().measureFlops(threads),
  };
}

/** What the caches that are last before memory hold together; 0 where the system does not say. */
export function lastCacheBytes(read: ReadText = readText): number {
  const sizes = new Map<string, number>();
  for (let cpu = 0; ; cpu++) {
    let [level, key, bytes] = [0, '', 0];
    for (let index = 0; ; index++) {
      const folder = `/sys/devices/system/cpu/cpu${cpu}/cache/index${index}`;
      const found = Number(read(`${folder}/level`));
      if (!(found > 0)) break;
      if (found < level || read(`${folder}/type`)?.trim() === 'Instruction') continue;
      const [, amount, unit] = /^(\d+)([KMG]?)/.exec(read(`${folder}/size`) ?? '') ?? [];
      level = found;
      bytes = Number(amount ?? 0) * (UNITS[unit ?? ''] ?? 1);
      key = `${found} ${read(`${folder}/shared_cpu_list`)?.trim() ?? cpu}`;
    }
    if (level === 0) break;
    sizes.set(key, bytes);
  }
  return [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0);
}

const UNITS: Readonly<Record<string, number>> = { K: KiB, M: MiB, G: GiB };

function meminfo(field: string): number | undefined {
  const match = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readText('/proc/meminfo') ?? '');
  return match ? Number(match[1]) * 1024 : undefined;
}

export interface GroupLimit {
  readonly limitBytes: number;
  /** Less what is used and cannot be dropped at once. */
  readonly leftBytes: number;
}

/** The control group around this process that leaves least; undefined without a limit. */
export function tightestGroup(read: ReadText): GroupLimit | undefined {
  let tightest: GroupLimit | undefined;
  for (const folder of groupFolders(read, 'memory')) {
    const group = groupLimit(read, folder);
    if (group && (!tightest || group.leftBytes < tightest.leftBytes)) tightest = group;
  }
  return tightest;
}

function groupLimit(read: ReadText, folder: string): GroupLimit | undefined {
  const limitText = read(`${folder}/memory.max`) ?? read(`${folder}/memory.limit_in_bytes`);
  const usedText = read(`${folder}/memory.current`) ?? read(`${folder}/memory.usage_in_bytes`);
  const [limit, used] = [Number(limitText?.trim()), Number(usedText?.trim())];
  // Version 1 writes a number near 2⁶³ for "no limit", version 2 the word max.
  if (!(limit > 0 && limit < 2 ** 60) || !Number.isFinite(used)) return undefined;
  const stat = read(`${folder}/memory.stat`) ?? '';
  // Version 1 counts a group alone in inactive_file, and with the groups below it in total_inactive_file.
  const droppable = (/^total_inactive_file (\d+)$/m.exec(stat) ?? /^inactive_file (\d+)$/m.exec(stat))?.[1];
  const leftBytes = limit - Math.max(0, used - Number(droppable ?? 0));
  return { limitBytes: limit, leftBytes: Math.max(0, leftBytes) };
}
