// Host buffers on their way back to the pool: somebody still reads or fills them.

import type { DeviceEvent, HostMemory } from '../port/backend.js';
import type { Lease } from './pool.js';

/** The host waits for devices only here: a host buffer is refilled by a drive, which cannot wait for events. */
export class Returns {
  readonly #returning = new Set<Promise<void>>();

  /** Once it is settled, either way: a buffer that a read still fills must not be leased again. */
  after(settled: Promise<unknown>, lease: Lease<HostMemory> | null): void {
    const release = () => lease?.release();
    const returning = settled.then(release, release).then(() => {
      this.#returning.delete(returning);
    });
    this.#returning.add(returning);
  }

  /** Once all are reached: where one device has failed, others still read. */
  when(done: readonly DeviceEvent[], lease: Lease<HostMemory> | null): void {
    if (!lease) return;
    if (done.length === 0) lease.release();
    else this.after(Promise.allSettled(done.map((event) => event.reached())), lease);
  }

  /** Resolves when all are back. */
  async all(): Promise<void> {
    await Promise.all(this.#returning);
  }
}
