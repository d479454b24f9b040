// Stages of a pipeline, one to eight devices, with every delay: the reference's results, no deadlock, no leak.

import { expect, it } from 'vitest';
import { SEEDS, sweep, World } from './world.js';

const COUNT = Math.ceil(SEEDS / 10);

it('batches that follow each other through stages yield what the reference does, wherever layers rest', async () => {
  const seen = new Set<number>();
  await sweep(COUNT, 500_001, async (seed) => {
    const world = new World(seed, { pipeline: true });
    seen.add(world.scenario.plan.pipeline?.stages.length ?? 0);
    await world.playAll();
  });
  if (SEEDS >= 600) for (const stages of [1, 2, 3, 4]) expect([...seen]).toContain(stages);
}, 600_000);
