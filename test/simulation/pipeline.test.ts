// Stages of a pipeline, one to eight devices, with every delay: the reference's results, no deadlock, no leak.

import { expect, it } from 'vitest';
import { OperatingError } from '../../offload/errors.js';
import { Random } from '../simulator/random.js';
import { SEEDS, sweep, World } from './world.js';

const COUNT = Math.ceil(SEEDS / 20);

it('batches that follow each other through stages yield what the reference does, wherever layers rest', async () => {
  const seen = new Set<number>();
  await sweep(COUNT, 500_001, async (seed) => {
    const world = new World(seed, { pipeline: true });
    seen.add(world.scenario.plan.pipeline?.stages.length ?? 0);
    await world.playAll();
  });
  if (SEEDS >= 600) for (const stages of [1, 2, 3, 4]) expect([...seen]).toContain(stages);
});

it('a stage that breaks off ends every pass on its way with its one error, and leaves nothing leased', async () => {
  let failures = 0;
  await sweep(Math.ceil(COUNT / 3), 510_001, async (seed) => {
    const random = new Random(seed);
    const deviceCount = random.between(2, 4);
    const [broken, at] = [random.between(0, deviceCount - 1), random.between(0, 20)];
    const breaks = (device: number, kernel: number) => device === broken && kernel === at;
    const world = new World(seed, { pipeline: true, deviceCount, breaks, busy: true });
    await world.create();
    world.executor.begin(world.scenario.passes.length);
    const failed = await world.runAll().then(
      () => undefined,
      (error: unknown) => error,
    );
    await world.end();
    await world.close();
    if (!failed) return; // the passes had fewer kernels
    failures++;
    expect(failed).toBeInstanceOf(OperatingError);
    expect((failed as Error).message).toMatch(
      new RegExp(`^a device failed: \\w+ \\(sim:${broken} compute #\\d+\\) broke off$`),
    );
  });
  expect(failures).toBeGreaterThan(0);
});
