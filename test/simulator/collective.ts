// A simulated gather by all devices at once: it moves bytes when all have arrived, and each part ends in its own time.

import { present } from '../../offload/errors.js';
import type { VirtualClock } from './clock.js';
import { type Access, type ByteRun, beginAccess, endAccess, type SimulatedMemory } from './memory.js';

interface Part {
  readonly memory: SimulatedMemory;
  /** Set when the device's stream has come to its part; called when the part is over. */
  resume?: (failure: Failure | undefined) => void;
}

/** Why a stream does nothing any more. */
export interface Failure {
  readonly error: unknown;
}

export class SimulatedGather {
  readonly #name: string;
  readonly #clock: VirtualClock;
  readonly #durationMs: () => number;
  readonly #parts: readonly Part[];
  readonly #shardBytes: number;
  #failure: Failure | undefined;

  constructor(
    name: string,
    clock: VirtualClock,
    durationMs: () => number,
    memories: readonly SimulatedMemory[],
    shardBytes: number,
  ) {
    this.#name = name;
    this.#clock = clock;
    this.#durationMs = durationMs;
    this.#parts = memories.map((memory) => ({ memory }));
    this.#shardBytes = shardBytes;
  }

  /** The stream of device `index` has come to its part. */
  arrive(index: number, resume: (failure: Failure | undefined) => void): void {
    const part = present(this.#parts[index], 'part');
    if (this.#failure) {
      resume(this.#failure);
      return;
    }
    part.resume = resume;
    if (this.#parts.every((one) => one.resume)) this.#begin();
  }

  /** A device that failed takes no part, so nobody does. */
  fail(failure: Failure): void {
    this.#failure ??= failure;
    for (const part of this.#parts) {
      const { resume } = part;
      delete part.resume;
      resume?.(failure);
    }
  }

  #begin(): void {
    const shards = this.#parts.map(({ memory }, g) => {
      const { start, end } = this.#run(memory, g);
      return { bytes: memory.bytes.slice(start, end), written: memory.written.slice(start, end) };
    });
    const runs = this.#parts.map(({ memory }) => this.#parts.map((_, g) => this.#run(memory, g)));
    const accesses = runs.map((own, g): Access => {
      const reads = own.filter((_, peer) => peer === g);
      const writes = own.filter((_, peer) => peer !== g);
      return { who: `${this.#name}, part of device ${g}`, startMs: this.#clock.nowMs, reads, writes };
    });
    for (const access of accesses) beginAccess(access);
    this.#parts.forEach(({ memory, resume }, g) => {
      this.#clock.after(this.#durationMs(), () => {
        shards.forEach(({ bytes, written }, peer) => {
          if (peer === g) return;
          const { start } = this.#run(memory, peer);
          memory.bytes.set(bytes, start);
          memory.written.set(written, start);
        });
        endAccess(present(accesses[g], 'access'));
        resume?.(undefined);
      });
    });
  }

  #run(memory: SimulatedMemory, shard: number): ByteRun {
    return { memory, start: shard * this.#shardBytes, end: (shard + 1) * this.#shardBytes };
  }
}
