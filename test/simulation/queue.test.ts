// How far ahead of the devices layers are queued: bounded, never a wait for each layer.

import { expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import type { DeviceEvent } from '../../offload/port/backend.js';
import { layersAhead } from '../../offload/run/lane.js';
import { withPlants } from './plants.js';
import { sweep, World } from './world.js';

it('a few layers are queued beyond what the device has reached, and never more than that', async () => {
  let most = 0;
  await sweep(40, 1, async (seed) => {
    const queued: DeviceEvent[] = [];
    const world = new World(seed, {
      blocks: 40,
      passes: 2,
      deviceCount: 1,
      computesInPlace: false,
      tiers: 'gpu',
      busy: true,
      wrap: (backend) =>
        withPlants(backend, {
          onLaunch: (_, op) => {
            if (op.op !== 'attention') return;
            queued.push(present(backend.devices[0], 'device').compute.record());
            const waiting = queued.filter(({ timeMs }) => Number.isNaN(timeMs)).length;
            const microBatches = Math.max(
              ...world.scenario.passes.map(({ pass }) => pass.perDevice[0]?.length ?? 0),
            );
            most = Math.max(most, waiting / microBatches);
            expect(waiting).toBeLessThanOrEqual((layersAhead(1) + 1) * microBatches);
          },
        }),
    });
    await world.playAll();
  });
  // Several layers at once, so that a device never runs dry, and far from all of them.
  expect(most).toBeGreaterThan(2);
  expect(most).toBeLessThan(20);
});

it('fewer layers are ahead the more micro-batches each has, two at least', () => {
  expect([1, 2, 4, 8, 16, 64, 1000].map(layersAhead)).toEqual([16, 16, 8, 4, 2, 2, 2]);
});
