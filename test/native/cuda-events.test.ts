// Events of a GPU's stream, observed in another order than they were recorded in.

import { describe, expect, it } from 'vitest';
import { CudaBackend, MiB, present } from '../../offload/index.js';
import { HAS_GPU } from './cuda-device.js';

const COPY_BYTES = 64 * MiB;
/** Tenths of a second on any link. */
const COPIES = 128;

describe.skipIf(!HAS_GPU)('events of a GPU', () => {
  it('that are observed late do not wait for those that were recorded after them', async () => {
    const backend = new CudaBackend();
    const device = present(backend.devices[0], 'device');
    const { fetch } = device;
    const host = backend.allocateHost(COPY_BYTES, 'control');
    const memory = device.allocate(COPY_BYTES);
    const settled: number[] = [];
    const first = fetch.record();
    const later = Array.from({ length: 3 }, () => {
      for (let copy = 0; copy < COPIES / 4; copy++) fetch.copy(memory, 0, host, 0, COPY_BYTES);
      return fetch.record();
    });
    const events = [first, ...later];
    const observed = events.map((event, number) => ({ event, number })).reverse();
    await Promise.all(observed.map(({ event, number }) => event.reached().then(() => settled.push(number))));
    expect(settled).toEqual([0, 1, 2, 3]);
    await backend.close();
  });
});
