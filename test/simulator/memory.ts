// Memory whose every access is an interval of virtual time: overlapping use of the same bytes is found when it happens.

import { assert } from '../../offload/errors.js';
import type { HostMemory, HostPurpose } from '../../offload/port/backend.js';
import type { Memory } from '../../offload/port/ops.js';

/** Two accesses of the same bytes that nothing keeps apart, or bytes that are not what they must be. */
export class HazardError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'HazardError';
  }
}

/** Bytes [start, end) of a memory. */
export interface ByteRun {
  readonly memory: SimulatedMemory;
  readonly start: number;
  readonly end: number;
}

/** Work that uses bytes from its start to its end in virtual time. */
export interface Access {
  readonly who: string;
  readonly startMs: number;
  readonly reads: readonly ByteRun[];
  readonly writes: readonly ByteRun[];
}

interface ActiveRun {
  readonly access: Access;
  readonly start: number;
  readonly end: number;
  readonly writes: boolean;
}

export type Purpose = HostPurpose | 'device';

export class SimulatedMemory implements HostMemory {
  readonly id: number;
  readonly sizeBytes: number;
  readonly name: string;
  readonly purpose: Purpose;
  /** Index of the device that owns it; undefined for memory of the host. */
  readonly device: number | undefined;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Int32Array;
  readonly floats: Float32Array;
  /** Per byte, 1 once it holds something that was put there. */
  readonly written: Uint8Array;
  #active: ActiveRun[] = [];

  constructor(
    id: number,
    sizeBytes: number,
    name: string,
    purpose: Purpose,
    device: number | undefined,
    garbage: number,
  ) {
    assert(Number.isSafeInteger(sizeBytes) && sizeBytes > 0, `${name} has a size`);
    this.id = id;
    this.sizeBytes = sizeBytes;
    this.name = name;
    this.purpose = purpose;
    this.device = device;
    const buffer = new ArrayBuffer(Math.ceil(sizeBytes / 4) * 4);
    this.bytes = new Uint8Array(buffer, 0, sizeBytes).fill(garbage);
    this.words = new Int32Array(buffer);
    this.floats = new Float32Array(buffer);
    // JavaScript fills tables without telling, so they count as written.
    this.written = new Uint8Array(sizeBytes).fill(purpose === 'control' ? 1 : 0);
  }

  begin(access: Access, start: number, end: number, writes: boolean): void {
    for (const active of this.#active) {
      if (active.access === access || !(writes || active.writes)) continue;
      if (start < active.end && active.start < end) throw this.#overlap(access, writes, active, start, end);
    }
    this.#active.push({ access, start, end, writes });
  }

  end(access: Access): void {
    this.#active = this.#active.filter((active) => active.access !== access);
  }

  /** Offset of the first byte of [start, end) that nobody has written; −1 when there is none. */
  firstUnwritten(start: number, end: number): number {
    const index = this.written.subarray(start, end).indexOf(0);
    return index < 0 ? -1 : start + index;
  }

  #overlap(access: Access, writes: boolean, other: ActiveRun, start: number, end: number): HazardError {
    const from = Math.max(start, other.start);
    const to = Math.min(end, other.end);
    return new HazardError(
      `${this.name}, bytes ${from} to ${to}: ${access.who} ${writes ? 'writes' : 'reads'} them from ` +
        `${access.startMs.toFixed(4)} ms on while ${other.access.who}, begun at ` +
        `${other.access.startMs.toFixed(4)} ms, still ${other.writes ? 'writes' : 'reads'} them`,
    );
  }
}

/** Throws a HazardError when the access overlaps one that has not ended. */
export function beginAccess(access: Access): void {
  for (const { memory, start, end } of access.reads) memory.begin(access, start, end, false);
  for (const { memory, start, end } of access.writes) memory.begin(access, start, end, true);
}

export function endAccess(access: Access): void {
  for (const memory of new Set([...access.reads, ...access.writes].map((run) => run.memory))) {
    memory.end(access);
  }
}

/** Throws a HazardError when bytes are used that nobody has written. */
export function requireWritten({ who, startMs, reads }: Access): void {
  for (const { memory, start, end } of reads) {
    const at = memory.firstUnwritten(start, end);
    if (at < 0) continue;
    throw new HazardError(
      `${memory.name}, byte ${at} of ${start} to ${end}: ${who} reads it at ${startMs.toFixed(4)} ms, ` +
        'but nothing was ever written there',
    );
  }
}

export function markWritten(runs: readonly ByteRun[]): void {
  for (const { memory, start, end } of runs) memory.written.fill(1, start, end);
}

/** The simulator's memory behind the opaque one. */
export function simulated(memory: Memory): SimulatedMemory {
  assert(memory instanceof SimulatedMemory, 'memory belongs to the simulated backend');
  return memory;
}

/** Depends on every byte of the run, and on nothing else. */
export function contentHash({ memory, start, end }: ByteRun, seed = 0x811c9dc5): number {
  const { bytes, words } = memory;
  let hash = seed;
  let at = start;
  if (start % 4 === 0) {
    const last = end >> 2;
    for (let index = start >> 2; index < last; index++) {
      hash = Math.imul(hash ^ (words[index] ?? 0), 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    at = last * 4;
  } else {
    for (; at + 4 <= end; at += 4) {
      const low = (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
      const high = ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24);
      hash = Math.imul(hash ^ (low | high), 0x9e3779b1);
      hash ^= hash >>> 15;
    }
  }
  for (; at < end; at++) {
    hash = Math.imul(hash ^ (bytes[at] ?? 0), 0x9e3779b1);
    hash ^= hash >>> 15;
  }
  return hash;
}
