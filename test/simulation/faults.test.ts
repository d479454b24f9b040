// Failures, early ends and second sessions: nothing hangs, nothing leaks, and the next session works.

import { expect, it } from 'vitest';
import { OperatingError } from '../../offload/errors.js';
import { type SimulatedMemory, simulated } from '../simulator/memory.js';
import { Random } from '../simulator/random.js';
import type { SimulatedBackend } from '../simulator/simulated.js';
import { CHOOSING } from './caught.js';
import { withPlants } from './plants.js';
import { SEEDS, sweep, World } from './world.js';

const COUNT = Math.ceil(SEEDS / 8);

/** Whether the promise was rejected by a failed read; anything else is thrown on. */
async function readFailed(promise: Promise<void>): Promise<boolean> {
  try {
    await promise;
    return false;
  } catch (error) {
    if (!(error instanceof OperatingError && error.code === 'READ_FAILED')) throw error;
    expect(error.message).toMatch(
      /^(\/drive-\d)?\/weights-\d\.safetensors(\.stripe)? cannot be read at offset \d+/,
    );
    return true;
  }
}

it('a read that fails ends the pass with its error; the next session reads again and goes on', async () => {
  let failures = 0;
  await sweep(COUNT, 100_001, async (seed) => {
    const random = new Random(seed);
    const failing = new Set(Array.from({ length: random.between(1, 4) }, () => random.between(1, 120)));
    // A pass that failed has left states that no pass goes on from; and a device is lost that waited for experts that cannot be read.
    const failsRead = (request: number) => failing.delete(request);
    const world = new World(seed, { states: false, expertHome: 'dram', failsRead });
    if (await readFailed(world.create())) return;
    const passCount = world.scenario.passes.length;
    world.executor.begin(passCount);
    for (let index = 0; index < passCount; index++) {
      if (!(await readFailed(world.run(index)))) continue;
      failures++;
      await world.end();
      // The same pass again, or all from the start, with other tables than those of the pass that failed.
      if (random.chance(0.3)) index = 0;
      world.executor.begin(passCount - index);
      index--;
    }
    await world.end();
    await world.close();
  });
  expect(failures).toBeGreaterThan(COUNT / 20);
});

it('a failed read of the fixed weights rejects the creation', async () => {
  const world = new World(1, { failsRead: (request) => request === 0 });
  expect(await readFailed(world.create())).toBe(true);
});

it('a session can end while a pass runs and fetches are in flight; the next one starts over', async () => {
  let interrupted = 0;
  await sweep(COUNT, 200_001, async (seed) => {
    const random = new Random(seed);
    const world = new World(seed);
    await world.create();
    const { executor, backend, scenario } = world;
    const passCount = scenario.passes.length;
    executor.begin(passCount);
    const before = random.between(0, passCount - 1);
    for (let index = 0; index < before; index++) await world.run(index);
    const running = world.run(before).then(
      () => false,
      (error: unknown) => {
        expect(String(error)).toContain('the prefetcher was stopped');
        return true;
      },
    );
    await backend.until(backend.sleep(random.spread(0.01, 20)), 'some time');
    await world.end();
    if (await running) interrupted++;
    executor.begin(passCount);
    for (const index of scenario.passes.keys()) await world.run(index);
    await world.end();
    await world.close();
  });
  expect(interrupted).toBeGreaterThan(COUNT / 10);
});

it('a session can end as a pass begins that brings what it chooses: nothing is read for nobody, and the next one goes on', async () => {
  await sweep(Math.ceil(COUNT / 10), 250_001, async (seed) => {
    let [isEnding, late] = [false, 0];
    const wrap = (backend: SimulatedBackend) =>
      withPlants(
        backend,
        {},
        {
          read: (requests, into) => {
            if (isEnding && simulated(into).purpose === 'resident') late++;
            return backend.read(requests, into);
          },
        },
      );
    const world = new World(seed, { ...CHOOSING, wrap });
    await world.create();
    const { executor, scenario } = world;
    executor.begin(scenario.passes.length);
    await world.backend.until(
      world.backend.sleep(1),
      'the prefetcher, which waits to hear whether the pass chooses',
    );
    const running = world.run(0).catch((error: unknown) => {
      expect(String(error)).toContain('the prefetcher was stopped');
    });
    isEnding = true;
    await world.end();
    await running;
    expect(late).toBe(0);
    isEnding = false;
    executor.begin(scenario.passes.length + 1);
    for (const index of scenario.passes.keys()) await world.run(index);
    // Nobody says whether a pass chooses that was announced and does not come.
    executor.limitPasses(0);
    await world.end();
    await world.close();
  });
});

it('a backend that is closed in the middle rejects what waits for it, and ending still works', async () => {
  let rejected = 0;
  await sweep(COUNT, 300_001, async (seed) => {
    const random = new Random(seed);
    const world = new World(seed);
    const { backend, scenario } = world;
    const interruptible = async () => {
      await world.create();
      world.executor.begin(scenario.passes.length);
      for (const index of scenario.passes.keys()) await world.run(index);
    };
    const played = interruptible().then(
      () => undefined,
      (error: unknown) => {
        rejected++;
        expect(error).toBeInstanceOf(OperatingError);
        expect(['INTERRUPTED', 'DEVICE_FAILED']).toContain((error as OperatingError).code);
      },
    );
    const closing = backend.sleep(random.spread(0.01, 30)).then(() => world.close());
    await Promise.all([backend.until(closing, 'closing'), played]);
    await world.close();
    if (world.isCreated) await world.end();
  });
  expect(rejected).toBeGreaterThan(COUNT / 5);
});

it('sessions share buffers and the layers at rest, each of which is read once; early stops fetch no further pass', async () => {
  await sweep(COUNT, 400_001, async (seed) => {
    const random = new Random(seed);
    const resident: SimulatedMemory[] = [];
    const read: string[] = [];
    const world = new World(seed, {
      striped: false,
      wrap: (backend) =>
        withPlants(
          backend,
          {},
          {
            read: (requests, into) => {
              if (simulated(into).purpose === 'resident') resident.push(simulated(into));
              if (simulated(into).purpose === 'stream')
                read.push(
                  requests
                    .map(({ file, ...run }) => `${file.file} ${run.fileOffset} ${run.sizeBytes}`)
                    .join(),
                );
              return backend.read(requests, into);
            },
          },
        ),
    });
    await world.create();
    const { executor, scenario } = world;
    const passCount = scenario.passes.length;
    for (let index = 0; index < passCount; ) {
      // More passes are announced than will be run.
      executor.begin(passCount - index + random.between(0, 3));
      const wanted = random.between(1, passCount - index);
      for (let i = 0; i < wanted; i++) {
        if (random.chance(0.3)) executor.limitPasses(wanted - i);
        await world.run(index++);
      }
      if (random.chance(0.5)) executor.limitPasses(0);
      await world.end();
    }
    const residents = scenario.plan.layers.filter(({ tier }) => tier === 'dram').length;
    // All but experts that come from files is read by the first pass that chooses.
    const bases = scenario.plan.layers.filter(({ experts }) => experts?.files).length;
    expect(new Set(resident).size).toBe(resident.length);
    expect(resident.length).toBeGreaterThanOrEqual(residents);
    expect(resident.length).toBeLessThanOrEqual(residents + bases);
    const reads = (tier: string) =>
      scenario.plan.layers
        .filter((layer) => layer.tier === tier)
        .map(({ layout }) =>
          layout.host.runs.map((run) => `${run.fileIndex} ${run.fileOffset} ${run.sizeBytes}`).join(),
        );
    // Small layers may lie in the very same aligned run of a file.
    const others = new Set([...reads('dram'), ...reads('nvme')]);
    const onDevices = reads('gpu').filter((key) => !others.has(key));
    expect(read.filter((key) => onDevices.includes(key)).sort()).toEqual(onDevices.sort());
    await world.close();
  });
});

it('a device that breaks off ends every pass with its one error, and leaves nothing leased', async () => {
  const seen = new Set<string>();
  await sweep(COUNT, 400_001, async (seed) => {
    const random = new Random(seed);
    const deviceCount = random.between(1, 5);
    const [broken, at] = [random.between(0, deviceCount - 1), random.between(0, 40)];
    const breaks = (device: number, kernel: number) => device === broken && kernel === at;
    const world = new World(seed, { deviceCount, breaks, busy: true });
    await world.create();
    const passCount = world.scenario.passes.length;
    world.executor.begin(passCount);
    let failed: unknown;
    for (let index = 0; index < passCount && !failed; index++) {
      failed = await world.run(index).then(
        () => undefined,
        (error: unknown) => error,
      );
    }
    await world.end();
    await world.close();
    if (!failed) return; // the passes had fewer kernels
    seen.add(`${world.scenario.plan.transfer.by} ${world.scenario.computesInPlace}`);
    expect(failed).toBeInstanceOf(OperatingError);
    expect(failed).toMatchObject({ code: 'DEVICE_FAILED' });
    expect((failed as Error).message).toMatch(
      new RegExp(`^a device failed: \\w+ \\(sim:${broken} compute #\\d+\\) broke off$`),
    );
  });
  for (const by of ['peer', 'nccl', 'none']) expect([...seen]).toContain(`${by} false`);
});
