// Planted bugs: the simulator must catch each, or its silence about the real code would mean nothing.

import { describe, expect, it } from 'vitest';
import { OperatingError, present } from '../../offload/errors.js';
import type { Memory } from '../../offload/port/ops.js';
import { simulated } from '../simulator/memory.js';
import {
  COPYING,
  caught,
  GATHERING,
  KEEPING,
  nth,
  RESTING,
  STREAMING,
  streams,
  TOGETHER,
  WHOLE,
} from './caught.js';
import { originOf, type StreamPlants, withLeases, withPlants } from './plants.js';
import type { Scenario } from './scenario.js';
import { World, type WorldOptions } from './world.js';

it('finds nothing where nothing is planted', async () => {
  for (const options of [STREAMING, COPYING, GATHERING, TOGETHER, WHOLE, RESTING, KEEPING]) {
    const { share } = await caught({ ...options, ...streams(() => ({})) });
    expect(share).toBe(0);
  }
});

describe('waits left out', () => {
  it('compute does not wait for a layer to arrive', async () => {
    const dropWait: StreamPlants['dropWait'] = (on) => on.kind === 'compute';
    const { share } = await caught({ ...COPYING, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.8);
  });

  it('compute does not wait for the shards of its peers', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind === 'compute' && event.kind === 'gather';
    const { share } = await caught({ ...GATHERING, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.9);
  });

  it('compute does not wait for one of the layers', async () => {
    const plants = (): StreamPlants => {
      // A device alone waits twice for the same event.
      const waits = [6, 7].map(nth);
      return { dropWait: (on) => on.kind === 'compute' && waits.map((chosen) => chosen()).includes(true) };
    };
    const { share } = await caught({ ...COPYING, deviceCount: 1, ...streams(plants) });
    expect(share).toBeGreaterThan(0.4);
  });

  it('compute does not wait for a layer that comes to rest on the device', async () => {
    const dropWait: StreamPlants['dropWait'] = (on) => on.kind === 'compute';
    const options = { ...RESTING, deviceCount: 1, passes: 1, ...streams(() => ({ dropWait })) };
    const { share } = await caught(options);
    expect(share).toBeGreaterThan(0.6);
  });

  it('a gather does not wait for the peers to have fetched', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) => on.kind === 'gather' && event.kind === 'fetch';
    const { share } = await caught({ ...GATHERING, ...streams(() => ({ dropWait })) });
    expect(share).toBe(1);
  });

  it('a gather does not wait for the kernels that still read the buffer', async () => {
    // Its waits for the peers' fetches imply the same, as long as those wait for every device's kernels; so they must not.
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      event.kind === 'compute' &&
      (on.kind === 'gather' || (on.kind === 'fetch' && on.device !== event.device));
    const { share } = await caught({ ...GATHERING, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.6);
  });

  it('a fetch does not wait for peers that still read the buffer', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind !== 'compute' && event.device !== on.device && event.kind !== 'fetch';
    const { share } = await caught({ ...GATHERING, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.3);
  });
});

describe('gathers by all devices together', () => {
  it('one does not wait for the others to have fetched', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind === 'gather' && on.device === 1 && event.device !== 1;
    // Nobody begins before all have come, so it is enough that one of them waits for all.
    const { share: covered } = await caught({ ...TOGETHER, ...streams(() => ({ dropWait })) });
    expect(covered).toBe(0);
    const all: StreamPlants['dropWait'] = (on, event) => on.kind === 'gather' && event.kind === 'fetch';
    const { share } = await caught({ ...TOGETHER, ...streams(() => ({ dropWait: all })) });
    expect(share).toBeGreaterThan(0.9);
  });

  it('a fetch does not wait for gathers that still use the buffer', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) => on.kind === 'fetch' && event.kind !== 'fetch';
    const { share } = await caught({ ...TOGETHER, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.6);
  });

  it('compute does not wait for them', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind === 'compute' && event.kind === 'gather';
    const { share } = await caught({ ...TOGETHER, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.9);
  });

  it('one leaves out a shard, which is smaller than it should be', async () => {
    const wrap: WorldOptions['wrap'] = (backend) => {
      const { gather } = backend.collective;
      const collective = {
        deviceBytes: 0,
        gather: (buffers: readonly Memory[], shardBytes: number) =>
          gather(buffers, Math.floor(shardBytes / 2)),
      };
      return { ...withPlants(backend, {}), collective };
    };
    const { share } = await caught({ ...TOGETHER, wrap });
    expect(share).toBe(1);
  });
});

describe('whole layers on every device', () => {
  it('the host buffer goes back when the first device has copied', async () => {
    // Events of the other devices' copies are taken for reached.
    const early: StreamPlants['early'] = (on) => on.kind === 'fetch' && on.device > 0;
    const { share } = await caught({ ...WHOLE, hostWindow: 2, ...streams(() => ({ early })) });
    expect(share).toBeGreaterThan(0.6);
  });

  it('a device computes on what another one has fetched', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind === 'compute' && on.device === 2 && event.kind === 'fetch';
    const { share } = await caught({ ...WHOLE, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.7);
  });

  it('a fetch does not wait for its own device’s kernels', async () => {
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind === 'fetch' && event.kind === 'compute' && on.device === event.device;
    const { share } = await caught({ ...WHOLE, ...streams(() => ({ dropWait })) });
    expect(share).toBeGreaterThan(0.8);
  });

  it('one device gets no copy', async () => {
    const dropCopy: StreamPlants['dropCopy'] = (on) => on.kind === 'fetch' && on.device === 1;
    const { share } = await caught({ ...WHOLE, ...streams(() => ({ dropCopy })) });
    expect(share).toBe(1);
  });
});

describe('leases released early', () => {
  it('a device buffer without the compute event', async () => {
    const { share } = await caught({ ...COPYING, deviceWindow: 2, ...streams(() => ({})) }, (world) =>
      withLeases(
        (lease) => ({
          ...lease,
          release: (after = []) =>
            lease.release(after.filter((event) => originOf(event)?.kind !== 'compute')),
        }),
        () => world.playAll(),
      ),
    );
    expect(share).toBeGreaterThan(0.8);
  });

  it('a host buffer before the copies from it have ended', async () => {
    const early: StreamPlants['early'] = (on) => on.kind === 'fetch';
    const { share } = await caught({ ...COPYING, hostWindow: 2, ...streams(() => ({ early })) });
    expect(share).toBeGreaterThan(0.8);
  });

  it('a host buffer before the kernels that read it in place have ended', async () => {
    const early: StreamPlants['early'] = (on, afterCopy) => on.kind === 'compute' && !afterCopy;
    const options = { ...STREAMING, computesInPlace: true, hostWindow: 2 };
    const { share } = await caught({ ...options, ...streams(() => ({ early })) });
    expect(share).toBeGreaterThan(0.8);
  });
});

describe('bytes that are not there', () => {
  it('a gather leaves out one shard', async () => {
    const plants = (): StreamPlants => {
      const chosen = nth(11);
      return { dropCopy: (on) => on.kind === 'gather' && chosen() };
    };
    const { share } = await caught({ ...GATHERING, ...streams(plants) });
    expect(share).toBe(1);
  });

  it('a fetch leaves out one piece', async () => {
    const plants = (): StreamPlants => {
      const chosen = nth(5);
      return { dropCopy: (on) => on.kind === 'fetch' && chosen() };
    };
    const { share } = await caught({ ...COPYING, ...streams(plants) });
    expect(share).toBe(1);
  });

  it('a layer that rests on the device is overwritten by another', async () => {
    let resting = new Set<number>();
    const alter = (scenario: Scenario): Scenario => {
      resting = new Set(scenario.plan.layers.map(({ layout }) => layout.device.sizeBytes));
      return scenario;
    };
    const wrap: WorldOptions['wrap'] = (backend) => {
      // The first layers are allocated first; the second one that fits is put where one rests already.
      let place: Memory | undefined;
      let planted = false;
      return withPlants(
        backend,
        {},
        {
          allocate: (device, sizeBytes) => {
            if (!resting.has(sizeBytes) || planted) return device.allocate(sizeBytes);
            if (!place || place.sizeBytes < sizeBytes) {
              place = device.allocate(sizeBytes);
              return place;
            }
            planted = true;
            return place;
          },
        },
      );
    };
    const { share } = await caught({ ...RESTING, deviceCount: 1, alter, wrap });
    expect(share).toBeGreaterThan(0.9);
  });

  it('a layer that comes to rest on the device lacks a piece', async () => {
    const plants = (): StreamPlants => {
      const chosen = nth(2);
      return { dropCopy: (on) => on.kind === 'fetch' && chosen() };
    };
    const { share } = await caught({ ...RESTING, deviceCount: 1, ...streams(plants) });
    expect(share).toBe(1);
  });

  it('two layers are taken for each other', async () => {
    const alter = (scenario: Scenario): Scenario => {
      const layers = [...scenario.plan.layers];
      const [second, third] = [present(layers[1], 'layer'), present(layers[2], 'layer')];
      layers[1] = { ...second, layout: third.layout };
      layers[2] = { ...third, layout: second.layout };
      return { ...scenario, plan: { ...scenario.plan, layers } };
    };
    // Layers of one kind: what a block lacks that it asks for, it says itself.
    const { share } = await caught({ ...STREAMING, mixtures: false, alter });
    expect(share).toBe(1);
  });

  it('a read says that it is done before its bytes have arrived', async () => {
    const { share } = await caught({
      ...STREAMING,
      wrap: (backend) =>
        withPlants(
          backend,
          {},
          {
            read: async (requests, into) => {
              const done = backend.read(requests, into);
              if (into.sizeBytes !== 0) done.catch(() => undefined);
              return { startMs: backend.nowMs(), endMs: backend.nowMs(), bytes: 0 };
            },
          },
        ),
    });
    expect(share).toBe(1);
  });
});

describe('leases lost', () => {
  const losing = (which: (pool: string) => boolean) => (world: World) => {
    const chosen = nth(4);
    return withLeases(
      (lease, pool) => ({
        ...lease,
        release: (after) => {
          if (!(which(pool.name) && chosen())) lease.release(after);
        },
      }),
      () => world.playAll(),
    );
  };

  it('one host buffer never comes back', async () => {
    const { share, by } = await caught(
      { ...STREAMING, hostWindow: 3 },
      losing((pool) => pool === 'host'),
    );
    expect(share).toBe(1);
    expect([...by]).toEqual(['LeakError']);
  });

  it('one device buffer never comes back', async () => {
    const { share } = await caught(
      { ...COPYING, deviceWindow: 3 },
      losing((pool) => pool !== 'host'),
    );
    expect(share).toBe(1);
  });

  it('the only host buffer never comes back', async () => {
    const { share, by } = await caught(
      { ...STREAMING, hostWindow: 1 },
      losing((pool) => pool === 'host'),
    );
    expect(share).toBe(1);
    expect([...by]).toEqual(['DeadlockError']);
  });
});

describe('plans that cannot work', () => {
  it.each([
    ['no host buffer for streamed layers', { ...STREAMING, hostWindow: 0 }, /host pool is absent/],
    ['no device buffer', { ...COPYING, deviceWindow: 0 }, /has buffers/],
  ])('%s', async (_, options, message) => {
    await expect(new World(1, options).playAll()).rejects.toThrow(message);
  });
});

it('tables are written for a new session while kernels of a failed pass still read them', async () => {
  let phase: 'first' | 'ending' | 'second' = 'first';
  let reads = 0;
  let pieces = 0;
  let queued: () => void = () => undefined;
  // Only the head streams, and in the second pass its read fails when a block has been queued.
  const alter = (scenario: Scenario): Scenario => {
    const layers = scenario.plan.layers.map((layer) => {
      return { ...layer, tier: layer.kind === 'head' ? ('nvme' as const) : ('dram' as const) };
    });
    pieces = layers.filter(({ tier }) => tier === 'nvme').length;
    return { ...scenario, plan: { ...scenario.plan, layers } };
  };
  const wrap: WorldOptions['wrap'] = (backend) =>
    withPlants(
      backend,
      {
        // Nothing but the wait at the end of a session records an event then.
        early: (on) => phase === 'ending' && on.kind === 'compute',
        onLaunch: (_, op) => {
          if (op.op === 'attention') queued();
        },
      },
      {
        read: async (requests, into) => {
          const isHead = simulated(into).purpose === 'stream';
          const fails = isHead && phase === 'first' && ++reads > pieces;
          const blockQueued = new Promise<void>((resolve) => {
            if (fails) queued = resolve;
          });
          const span = await backend.read(requests, into);
          if (!fails) return span;
          await blockQueued;
          throw new OperatingError('READ_FAILED', 'planted');
        },
      },
    );
  const { share } = await caught(
    { ...STREAMING, computesInPlace: true, hostWindow: 1, alter, wrap },
    async (world) => {
      phase = 'first';
      reads = 0;
      await world.create();
      world.executor.begin(2);
      await world.run(0);
      await world.run(1).catch(ignoreReadFailure);
      phase = 'ending';
      await world.end();
      phase = 'second';
      // From the start again: other tables than those of the pass that failed.
      world.executor.begin(2);
      await world.run(0);
      await world.run(1);
    },
  );
  expect(share).toBeGreaterThan(0.4);
});

function ignoreReadFailure(error: unknown): void {
  if (!(error instanceof OperatingError && error.code === 'READ_FAILED')) throw error;
}
