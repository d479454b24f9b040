// What the machine has: memory that may be used, and measured rates.

import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { native } from './native.js';
import { GiB, MiB } from './units.js';

export interface Hardware {
  /** Memory that may be taken without swapping: the smaller of what is available and what the control group allows. */
  readonly dramAvailableBytes: number;
}

export function detectHardware(): Hardware {
  const available = meminfo('MemAvailable') ?? 4 * GiB;
  const limit = cgroupLeft();
  return { dramAvailableBytes: limit === undefined ? available : Math.min(available, limit) };
}

export interface ComputeLimits {
  /** Reading cold memory. */
  readonly memoryBytesPerSecond: number;
  /** f32 multiply-adds on registers, counting two each. */
  readonly flopsPerSecond: number;
}

/** More than the caches of the processors we know hold. */
const COLD_BYTES = 256 * MiB;

/** With as many threads as compute has. Blocks for some tenths of a second and takes COLD_BYTES of memory meanwhile. */
export function measureComputeLimits(threads = availableParallelism()): ComputeLimits {
  return {
    memoryBytesPerSecond: native().measureReadBandwidth(COLD_BYTES, threads),
    flopsPerSecond: native().measureFlops(threads),
  };
}

function meminfo(field: string): number | undefined {
  const match = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readText('/proc/meminfo') ?? '');
  return match ? Number(match[1]) * 1024 : undefined;
}

/** Bytes left under the control group's limit (version 2, then 1); undefined without a limit. */
function cgroupLeft(): number | undefined {
  const pairs = [
    ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current'],
    ['/sys/fs/cgroup/memory/memory.limit_in_bytes', '/sys/fs/cgroup/memory/memory.usage_in_bytes'],
  ] as const;
  for (const [limitPath, usedPath] of pairs) {
    const limit = Number(readText(limitPath)?.trim());
    const used = Number(readText(usedPath)?.trim());
    // Version 1 writes a number near 2⁶³ for "no limit".
    if (limit > 0 && limit < 2 ** 60 && Number.isFinite(used)) return Math.max(0, limit - used);
  }
  return undefined;
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
