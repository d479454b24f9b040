// Planted bugs between the stages of a pipeline: the simulator must catch each.

import { describe, expect, it } from 'vitest';
import { DTYPE_BYTES } from '../../offload/port/dtype.js';
import type { Memory } from '../../offload/port/ops.js';
import { caught as caughtIn, type Play, streams } from './caught.js';
import { type StreamPlants, withPlants } from './plants.js';
import type { World, WorldOptions } from './world.js';

const STAGES: WorldOptions = {
  pipeline: true,
  deviceCount: 3,
  batches: 3,
  blocks: 4,
  tiers: 'gpu',
  kvOffload: false,
  output: 'tokens',
  busy: true,
  passes: 2,
};

/** They are caught in most worlds, so that a few are enough. */
const WORLDS = 10;
const caught = (options: WorldOptions, play?: Play) => caughtIn(options, play, WORLDS);

describe('devices in a row', () => {
  it('nothing is found where nothing is planted', async () => {
    const { share } = await caught({ ...STAGES, ...streams(() => ({})) });
    expect(share).toBe(0);
  });

  it('a stage does not wait for what the one before has made', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind === 'compute' && event.kind === 'gather';
    const { share } = await caught({ ...STAGES, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.9);
  });

  it('what a stage has made is taken before it is made', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind === 'gather' && event.kind === 'compute';
    const { share } = await caught({ ...STAGES, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.9);
  });

  it('batches have the same hidden states on a device', async () => {
    const { share } = await caught(
      {
        ...STAGES,
        wrap: (backend) => {
          const first = new Map<object, Memory>();
          return withPlants(
            backend,
            {},
            {
              allocate: (device, sizeBytes) => {
                if (sizeBytes !== planted.hidden()) return device.allocate(sizeBytes);
                const memory = first.get(device) ?? device.allocate(sizeBytes);
                first.set(device, memory);
                return memory;
              },
            },
          );
        },
      },
      async (world) => {
        planted.world = world;
        await world.playAll();
      },
    );
    expect(share).toBeGreaterThan(0.6);
  });

  it('a batch begins its next pass before its last one has ended', async () => {
    const { share } = await caught(STAGES, async (world) => {
      await world.create();
      world.executor.begin(world.scenario.passes.length);
      await Promise.all([...world.scenario.passes.keys()].map((index) => world.run(index)));
    });
    expect(share).toBeGreaterThan(0.1);
  });
});

/** The world that is played, which the backend does not know. */
const planted = {
  world: undefined as World | undefined,
  hidden(): number {
    const { plan, toy } = planted.world?.scenario ?? {};
    return (plan?.passTokens ?? 0) * (toy?.model.hiddenSize ?? 0) * DTYPE_BYTES.f32;
  },
};
