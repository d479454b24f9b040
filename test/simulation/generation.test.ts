// Uneven prompts on simulated machines of one to eight devices: nothing hangs or leaks, and every text is the reference's.

import { expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import type { Backend } from '../../offload/port/backend.js';
import { Executor } from '../../offload/run/executor.js';
import type { Pass } from '../../offload/run/pass.js';
import { generate } from '../../src/engine/generate.js';
import { PageCache } from '../../src/engine/page-cache.js';
import type { GenerationRequest } from '../../src/engine/request.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { simulated } from '../simulator/memory.js';
import { Random } from '../simulator/random.js';
import { DeadlockError, HazardError, type SimulatedBackend } from '../simulator/simulated.js';
import { expectedTokens } from './expected-tokens.js';
import { type StreamPlants, withPlants } from './plants.js';
import { CONTEXT_TOKENS } from './toy-model.js';
import { LeakError, SEEDS, sweep, World, type WorldOptions, WrongResultError } from './world.js';

const COUNT = Math.ceil(SEEDS / 40);
const MOST_NEW_TOKENS = 12;

interface Work {
  readonly requests: readonly GenerationRequest[];
  /** How long each text becomes, by index: ragged, so that streams end at different times. */
  readonly lengths: readonly number[];
}

function drawWork(random: Random, vocabSize: number, count: number): Work {
  const requests = Array.from({ length: count }, (_, index) => ({
    index,
    promptTokens: Int32Array.from({ length: random.between(1, CONTEXT_TOKENS - MOST_NEW_TOKENS) }, () =>
      random.between(0, vocabSize - 1),
    ),
  }));
  return { requests, lengths: requests.map(() => random.between(1, MOST_NEW_TOKENS)) };
}

interface Played {
  readonly world: World;
  readonly passes: readonly PassProgress[];
}

/** @param ragged texts end at different times, rather than when they are as long as they may be */
async function play(
  seed: number,
  options: WorldOptions,
  promptsPerPlace: number,
  ragged = true,
): Promise<Played> {
  const random = new Random(seed);
  const world = new World(seed, { ...options, output: 'tokens', passes: 1 });
  await world.create();
  const { executor, backend, scenario } = world;
  const batchSize = random.between(1, scenario.plan.sequences);
  const places = batchSize * scenario.deviceCount;
  const work = drawWork(random, scenario.toy.model.vocabSize, Math.ceil(places * promptsPerPlace));
  const lengthOf = (index: number) => (ragged ? (work.lengths[index] ?? 0) : MOST_NEW_TOKENS);
  const passes: PassProgress[] = [];
  const finished: number[] = [];
  const generating = generate(executor, work.requests, {
    batchSize,
    maxNewTokens: MOST_NEW_TOKENS,
    stopTokens: new Set(),
    stopsAfter: ({ index }) => {
      let made = 0;
      return () => ++made === lengthOf(index);
    },
    onFinished: ({ index }) => finished.push(index),
    onPass: (pass) => passes.push(pass),
  });
  const results = await backend.until(generating, 'generating');
  if (executor.leasedBuffers > 0) throw new LeakError(`${executor.leasedBuffers} buffers are still leased`);
  await backend.close();
  for (const [index, { tokens }] of results.entries()) {
    const expected = expectedTokens(
      world.scenario,
      present(work.requests[index], 'request'),
      lengthOf(index),
    );
    if (tokens.join() !== expected.join()) throw new WrongResultError(`text ${index} differs`);
  }
  expect([...finished].sort((a, b) => a - b)).toEqual([...work.requests.keys()]);
  return { world, passes };
}

it('ragged streams on any number of devices yield the texts that each prompt has alone', async () => {
  const idle = new Set<number>();
  await sweep(COUNT, 500_001, async (seed) => {
    const { passes } = await play(seed, {}, new Random(seed + 7).between(1, 3));
    for (const { sequences, capacity } of passes) idle.add(capacity - sequences);
  });
  // Devices ran out of prompts while others had some.
  expect(idle.size).toBeGreaterThan(3);
});

it('devices without any prompt keep their part of the gathers going', async () => {
  await sweep(Math.ceil(COUNT / 3), 600_001, async (seed) => {
    await play(seed, { deviceCount: 8, computesInPlace: false }, 0.2);
  });
});

it('while prompts wait, every place has work, but for those that wait for their prompt’s turn in a pass', async () => {
  let [sequences, capacity] = [0, 0];
  await sweep(Math.ceil(COUNT / 8), 700_001, async (seed) => {
    const { passes } = await play(seed, {}, 5);
    for (const pass of passes.filter(({ waitingPrompts }) => waitingPrompts > 0)) {
      sequences += pass.sequences;
      capacity += pass.capacity;
    }
  });
  expect(sequences / capacity).toBeGreaterThan(0.8);
});

it('nothing is fetched in vain when texts are as long as they may be', async () => {
  await sweep(Math.ceil(COUNT / 3), 800_001, async (seed) => {
    let reads = 0;
    const read = (backend: SimulatedBackend): Backend['read'] => {
      return (requests, into) => {
        if (simulated(into).purpose === 'stream') reads++;
        return backend.read(requests, into);
      };
    };
    const wrap = (backend: SimulatedBackend) => withPlants(backend, {}, { read: read(backend) });
    const { world, passes } = await play(seed, { wrap, tiers: 'nvme' }, 1, false);
    expect(reads).toBe(passes.length * world.scenario.plan.layers.length);
  });
});

/** Every layer rests on the devices, and so do tables of tokens: a pass may be queued before the one before it has ended. */
const AHEAD: WorldOptions = {
  tiers: 'gpu',
  shards: false,
  slots: 'none',
  kvOffload: false,
  computesInPlace: false,
};

const AHEAD_SMALL: WorldOptions = { ...AHEAD, deviceCount: 2, blocks: 2 };

/** But for experts that come when they are chosen, or are computed on the host. */
const AHEAD_SLOTS: WorldOptions = { ...AHEAD, mixtures: true, slots: 'some', expertHome: 'dram' };

it('a step that is queued while the one before it runs takes in what that one draws', async () => {
  const { run } = Executor.prototype;
  let [ahead, passes] = [0, 0];
  Executor.prototype.run = function (this: Executor, pass: Pass) {
    passes++;
    if (pass.perDevice.flat().some(({ drawn }) => drawn)) ahead++;
    return run.call(this, pass);
  };
  const share = async (first: number, options: WorldOptions, small: WorldOptions) => {
    [ahead, passes] = [0, 0];
    await sweep(COUNT, first, async (seed) => {
      await play(seed, options, new Random(seed + 7).between(1, 3));
      await play(seed, small, 3);
    });
    return ahead / passes;
  };
  try {
    expect(await share(900_001, AHEAD, AHEAD_SMALL)).toBeGreaterThan(0.2);
    expect(await share(950_001, AHEAD_SLOTS, { ...AHEAD_SLOTS, deviceCount: 1 })).toBeGreaterThan(0.2);
  } finally {
    Executor.prototype.run = run;
  }
});

it('canaries: tables that are read before they have come, and tokens that are taken for rows of others, are caught', async () => {
  expect(await caught(AHEAD_SMALL)).toBe(0);
  const early: StreamPlants['early'] = (on) => on.kind === 'fetch';
  const wrap = (backend: SimulatedBackend) => withPlants(backend, { early });
  expect(await caught({ ...AHEAD_SMALL, wrap })).toBeGreaterThan(0.3);
  const onLaunch: StreamPlants['onLaunch'] = (_, op) => {
    if (op.op === 'token_rows') Object.assign(op, { tokens: op.rows });
  };
  const swap = (backend: SimulatedBackend) => withPlants(backend, { onLaunch });
  expect(await caught({ ...AHEAD_SMALL, wrap: swap })).toBeGreaterThan(0.3);
});

/** Share of seeds in which a planted bug is caught. */
async function caught(options: WorldOptions): Promise<number> {
  let count = 0;
  for (let seed = 1; seed <= 20; seed++) {
    try {
      await play(seed, options, 3);
    } catch (error) {
      const known = [HazardError, DeadlockError, WrongResultError, LeakError];
      if (!known.some((kind) => error instanceof kind)) throw error;
      count++;
    }
  }
  return count / 20;
}

const BUSY: WorldOptions = {
  deviceCount: 3,
  gather: 'peer',
  computesInPlace: false,
  blocks: 4,
  tiers: 'nvme',
};

it('canaries: an idle device that gathers nothing, and pages that two texts share, are caught', async () => {
  expect(await caught(BUSY)).toBe(0);
  const dropCopy = (on: { device: number; kind: string }) => on.device === 2 && on.kind === 'gather';
  expect(await caught({ ...BUSY, wrap: (backend) => withPlants(backend, { dropCopy }) })).toBeGreaterThan(
    0.8,
  );
  const { take } = PageCache.prototype;
  PageCache.prototype.take = function () {
    const page = take.call(this);
    return Object.assign(page, { number: Math.max(0, page.number - 1) });
  };
  try {
    expect(await caught({ ...BUSY, deviceCount: 1 })).toBeGreaterThan(0.3);
  } finally {
    PageCache.prototype.take = take;
  }
});
