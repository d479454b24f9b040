// Planted bugs where layers rest on several devices in shards: the simulator must catch each.

import { describe, expect, it } from 'vitest';
import { caught, SHARDED, streams } from './caught.js';
import type { StreamPlants } from './plants.js';

describe('layers at rest in shards', () => {
  it('nothing is found where nothing is planted', async () => {
    const { share } = await caught({ ...SHARDED, ...streams(() => ({})) });
    expect(share).toBe(0);
  });

  it('a gather does not wait for the shards to have come', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) => on.kind === 'gather' && event.kind === 'fetch';
    const { share } = await caught({ ...SHARDED, passes: 1, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.6);
  });

  it('a gather does not wait for the kernels that still read the buffer', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind === 'gather' && event.kind === 'compute';
    const { share } = await caught({ ...SHARDED, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.6);
  });

  it('compute does not wait for a gather', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind === 'compute' && event.kind === 'gather';
    const { share } = await caught({ ...SHARDED, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.6);
  });

  it("a device's own part does not wait for the kernels that still read the buffer", async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) => on.kind === 'fetch' && event.kind === 'compute';
    const { share } = await caught({ ...SHARDED, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.6);
  });

  it("compute does not wait for a device's own part", async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) => on.kind === 'compute' && event.kind === 'fetch';
    const { share } = await caught({ ...SHARDED, ...streams(() => ({ dropWait })) });
    // What comes from the others takes longer in most worlds, and compute waits for that.
    expect(share).toBeGreaterThan(0.1);
  });
});
