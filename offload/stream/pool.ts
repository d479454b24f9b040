// Equal buffers allocated once, and the leases that give the right to use one.

import { assert } from '../errors.js';
import type { DeviceEvent } from '../port/backend.js';

/** The right to use one buffer until `release()`. */
export interface Lease<B> {
  readonly buffer: B;
  /** Events that whoever writes the buffer next must wait for: the former holder's queued work. */
  readonly after: readonly DeviceEvent[];
  /** Gives the buffer back; `after` are the events until which queued work still uses it. */
  release(after?: readonly DeviceEvent[]): void;
}

interface Free<B> {
  readonly buffer: B;
  readonly after: readonly DeviceEvent[];
}

/** First come, first served. Allocates nothing after construction. */
export class BufferPool<B> {
  readonly name: string;
  readonly count: number;
  #free: Free<B>[];
  #waiting: { resolve: (lease: Lease<B>) => void; reject: (error: unknown) => void }[] = [];
  #closed: { readonly reason: unknown } | undefined;

  constructor(name: string, buffers: readonly B[]) {
    assert(buffers.length > 0, `pool ${name} has buffers`);
    this.name = name;
    this.count = buffers.length;
    this.#free = buffers.map((buffer) => ({ buffer, after: [] }));
  }

  get leased(): number {
    return this.count - this.#free.length;
  }

  canAcquire(): boolean {
    return this.#free.length > 0 && !this.#closed;
  }

  /** Resolves with a lease as soon as a buffer is free; rejects once the pool is closed. */
  acquire(): Promise<Lease<B>> {
    if (this.#closed) return Promise.reject(this.#closed.reason);
    const free = this.#free.shift();
    if (free) return Promise.resolve(this.#lease(free));
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Rejects those who wait and all who come. Leases that are out may still be released. */
  close(reason: unknown): void {
    if (this.#closed) return;
    this.#closed = { reason };
    for (const waiter of this.#waiting.splice(0)) waiter.reject(reason);
  }

  #lease(free: Free<B>): Lease<B> {
    let released = false;
    return {
      buffer: free.buffer,
      after: free.after,
      release: (after = []) => {
        assert(!released, `a lease of pool ${this.name} is released once`);
        released = true;
        const again = { buffer: free.buffer, after };
        const waiter = this.#waiting.shift();
        if (waiter) waiter.resolve(this.#lease(again));
        else this.#free.push(again);
      },
    };
  }
}
