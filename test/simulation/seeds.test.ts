// Thousands of machines, plans and delays: no hazard, no deadlock, no leak, and always the reference's results.

import { expect, it } from 'vitest';
import { SEEDS, sweep, World } from './world.js';

it('yields the same results for every seed, window, device count and placement', async () => {
  const seen = new Set<string>();
  await sweep(SEEDS, 1, async (seed) => {
    const world = new World(seed);
    const { deviceCount, computesInPlace } = world.scenario;
    seen.add(`${deviceCount} ${computesInPlace}`);
    await world.playAll();
  });
  if (SEEDS >= 1000) expect(seen.size).toBe(16);
});
