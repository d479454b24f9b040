// The machine as `plan` and `doctor` describe it where a GPU computes.

import { describe, expect, it } from 'vitest';
import { MiB, present } from '../../offload/index.js';
import { measureMachine } from '../../src/doctor/machine.js';
import { HAS_GPU, OWN_KERNELS_ONLY } from './cuda-device.js';

describe.skipIf(!HAS_GPU)('a machine with a GPU', () => {
  it.skipIf(OWN_KERNELS_ONLY)('is described by its GPU, its link and 16-bit products (library)', async () => {
    const machine = await measureMachine({ weightTypes: ['bf16', 'f16', 'f32'], device: 'cuda' });
    expect(machine.devices).toMatchObject({ kind: 'gpu', count: 1, peerBytesPerSecond: null });
    expect(machine.devices.memoryBytes).toBeGreaterThan(256 * MiB);
    const link = present(machine.devices.linkBytesPerSecond, 'link');
    const { products, memoryBytesPerSecond, ...rates } = machine.compute;
    // Memory of a device is nearer than the host's, and many tokens share their weights.
    expect(memoryBytesPerSecond).toBeGreaterThan(link);
    for (const { points } of products) {
      const [first, last] = [present(points[0], 'a point'), present(points.at(-1), 'a point')];
      expect(last.tokens).toBeGreaterThanOrEqual(2048);
      expect(last.flopsPerSecond).toBeGreaterThan(4 * first.flopsPerSecond);
    }
    for (const rate of Object.values(rates)) expect(Number.isFinite(rate) && rate > 0).toBe(true);
  });
});
