// What the machine has: memory that may be used, and measured rates.

import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { native } from './native.js';
import { GiB, KiB, MiB } from './units.js';

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

/** Several pieces for each thread of the processors we know. They are flushed from the caches before they are read. */
const READ_BYTES = 256 * MiB;

/**
 * With as many threads as compute has. Blocks for some tenths of a second, and takes READ_BYTES of memory meanwhile, or a
 * quarter of what is available.
 */
export function measureComputeLimits(threads = availableParallelism()): ComputeLimits {
  const bytes = Math.min(READ_BYTES, detectHardware().dramAvailableBytes / 4);
  return {
    memoryBytesPerSecond: native().measureReadBandwidth(Math.max(MiB, Math.floor(bytes)), threads),
    flopsPerSecond: native().measureFlops(threads),
  };
}

/** What the caches that are last before memory hold together; 0 where the system does not say. */
export function lastCacheBytes(read: (path: string) => string | undefined = readText): number {
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

/**
 * The control group around this process that leaves least, of version 2 or 1; undefined without a limit. Inside a
 * container the group is at the root of what is mounted, outside it has a path; groups above it limit as well.
 * @param read a file's text, or undefined where there is none
 */
export function tightestGroup(read: (path: string) => string | undefined): GroupLimit | undefined {
  let tightest: GroupLimit | undefined;
  for (const line of (read('/proc/self/cgroup') ?? '0::/\n0:memory:/').split('\n')) {
    const match = /^\d+:([^:]*):(.*)$/.exec(line);
    const [, controllers = '', path = '/'] = match ?? [];
    if (!match || (controllers !== '' && !controllers.split(',').includes('memory'))) continue;
    const root = controllers === '' ? '/sys/fs/cgroup' : '/sys/fs/cgroup/memory';
    for (const folder of [root, ...foldersOf(path).map((inner) => `${root}${inner}`)]) {
      const group = groupLimit(read, folder);
      if (group && (!tightest || group.leftBytes < tightest.leftBytes)) tightest = group;
    }
  }
  return tightest;
}

/** `/a/b` → `/a`, `/a/b`. */
function foldersOf(path: string): string[] {
  const names = path.split('/').filter((name) => name !== '' && name !== '..');
  return names.map((_, index) => `/${names.slice(0, index + 1).join('/')}`);
}

function groupLimit(read: (path: string) => string | undefined, folder: string): GroupLimit | undefined {
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

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
