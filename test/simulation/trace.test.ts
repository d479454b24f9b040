// What a trace says about time: waiting for a layer is stall, and no part of computing.

import { expect, it } from 'vitest';
import type { Trace } from '../../offload/trace.js';
import { World } from './world.js';

it('with one buffer, a drive that reads and compute that waits never count at once', async () => {
  for (let seed = 1; seed <= 30; seed++) {
    const world = new World(seed, {
      deviceCount: 1,
      computesInPlace: true,
      tiers: 'nvme',
      hostWindow: 1,
      passes: 3,
      busy: true,
    });
    await world.create();
    const startMs = world.backend.nowMs();
    world.executor.begin(world.scenario.passes.length);
    for (const index of world.scenario.passes.keys()) await world.run(index);
    const elapsedMs = world.backend.nowMs() - startMs;
    await world.end();
    await world.backend.close();
    const busyMs = (lane: string) =>
      world.trace.summaries().reduce((sum, summary) => sum + (summary.lane === lane ? summary.busyMs : 0), 0);
    const [compute, drive] = [busyMs('compute'), busyMs('nvme→dram')];
    expect(compute, `seed ${seed}`).toBeGreaterThan(0);
    // The embedding needs no layer, so the drive may read the first one beside it.
    expect(compute - embeddingMs(world.trace) + drive, `seed ${seed}`).toBeLessThanOrEqual(
      elapsedMs * (1 + 1e-9),
    );
    // The first read of a pass may be under way before the pass begins; the others are all waited for.
    expect(world.trace.computeStallMs, `seed ${seed}`).toBeGreaterThan(0);
    expect(compute + world.trace.computeStallMs, `seed ${seed}`).toBeLessThanOrEqual(elapsedMs * (1 + 1e-9));
  }
});

function embeddingMs(trace: Trace): number {
  return trace.spans.reduce(
    (sum, { name, startMs, endMs }) => sum + (name === 'embedding' ? endMs - startMs : 0),
    0,
  );
}
