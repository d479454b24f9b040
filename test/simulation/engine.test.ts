// An engine on simulated machines: requests come, share pages, make room and are cancelled, and each text is the reference's.

import { afterEach, describe, expect, it } from 'vitest';
import { pagesFor } from '../../offload/model/kv-cache.js';
import type { PageRun } from '../../offload/run/pass.js';
import { DeviceBatch } from '../../src/engine/device-batch.js';
import { LatePages } from '../../src/engine/late-pages.js';
import { PageCache } from '../../src/engine/page-cache.js';
import type { GenerationRequest } from '../../src/engine/request.js';
import { Scheduler } from '../../src/engine/scheduler.js';
import { Sequence } from '../../src/engine/sequence.js';
import type { Submission } from '../../src/engine/submission.js';
import { Random } from '../simulator/random.js';
import { DeadlockError, HazardError } from '../simulator/simulated.js';
import { expectedTokens } from './expected-tokens.js';
import type { Scenario } from './scenario.js';
import { CONTEXT_TOKENS } from './toy-model.js';
import { LeakError, SEEDS, sweep, World, type WorldOptions, WrongResultError } from './world.js';

const COUNT = Math.max(16, Math.ceil(SEEDS / 40));

/** What happened, over all seeds. */
const seen = { shared: 0, preempted: 0, cancelled: 0, late: 0 };

/** Beginnings that several prompts have, and rests of their own. */
function drawRequests(random: Random, vocabSize: number, count: number): GenerationRequest[] {
  const tokens = (length: number) => Array.from({ length }, () => random.between(0, vocabSize - 1));
  const beginnings = Array.from({ length: 2 }, () => tokens(random.between(0, 30)));
  return Array.from({ length: count }, (_, index) => {
    const promptTokens = Int32Array.of(...random.pick(beginnings), ...tokens(random.between(1, 6)));
    return { index, promptTokens, maxNewTokens: random.between(1, CONTEXT_TOKENS - promptTokens.length) };
  });
}

/** Room for fewer pages than the sequences may come to need. */
function withFewPages(seed: number, scenario: Scenario): Scenario {
  const { plan } = scenario;
  const least = pagesFor(CONTEXT_TOKENS, plan.pageTokens);
  const drawn = new Random(seed + 11);
  const kvPages = drawn.chance(0.5) ? least : drawn.between(least, plan.kvPages);
  return { ...scenario, plan: { ...plan, kvPages } };
}

async function play(seed: number, options: WorldOptions = {}): Promise<void> {
  const random = new Random(seed);
  const alter = (scenario: Scenario) => withFewPages(seed, options.alter?.(scenario) ?? scenario);
  const world = new World(seed, { ...options, output: 'tokens', passes: 1, alter });
  await world.create();
  const { executor, backend, scenario } = world;
  const requests = drawRequests(random, scenario.toy.model.vocabSize, random.between(3, 12));
  const coming = [...requests];
  const submissions = new Map<GenerationRequest, Submission>();
  const cancelled = new Set<GenerationRequest>();
  const submitSome = () => {
    for (const request of coming.splice(0, random.between(0, 4))) {
      submissions.set(request, scheduler.submit(request));
    }
    if (submissions.size === 0 || !random.chance(0.03)) return;
    const request = random.pick([...submissions.keys()]);
    cancelled.add(request);
    submissions.get(request)?.cancel();
  };
  let fed = 0;
  const scheduler: Scheduler = new Scheduler(executor, {
    onPass: ({ tokens }) => {
      fed += tokens;
      submitSome();
    },
  });
  // With pauses in which nothing is to be done.
  while (coming.length > 0) {
    submitSome();
    await backend.until(scheduler.whenIdle(), 'requests');
  }
  await backend.until(scheduler.whenIdle(), 'the last requests');
  const free = scheduler.freePages;
  const freeLate = scheduler.freeLatePages;
  await backend.until(scheduler.close(), 'closing');
  if (executor.leasedBuffers > 0) throw new LeakError(`${executor.leasedBuffers} buffers are still leased`);
  if (free.some((pages) => pages !== scenario.plan.kvPages)) throw new LeakError(`${free} pages are free`);
  const late = scenario.plan.horizons.map(({ pages }) => pages).join();
  if (freeLate.some((pages) => pages.join() !== late)) throw new LeakError(`${freeLate} late pages are free`);
  if (scenario.plan.horizons.length > 0) seen.late++;
  await backend.close();
  let wanted = 0;
  for (const [request, { result }] of submissions) {
    const { tokens, finishReason } = await result;
    const expected = expectedTokens(scenario, request, tokens.length);
    if (tokens.join() !== expected.join()) throw new WrongResultError(`text ${request.index} differs`);
    if (finishReason === 'cancelled') seen.cancelled++;
    else if (tokens.length !== request.maxNewTokens)
      throw new WrongResultError(`text ${request.index} is short`);
    wanted += request.promptTokens.length + tokens.length - 1;
  }
  expect(submissions.size).toBe(requests.length);
  if (cancelled.size === 0 && fed < wanted) seen.shared++;
}

it('requests that share, grow, make room and leave have the texts that they have alone', async () => {
  const { makeRoom } = DeviceBatch.prototype;
  DeviceBatch.prototype.makeRoom = function () {
    const preempted = makeRoom.call(this);
    seen.preempted += preempted.length;
    return preempted;
  };
  try {
    await sweep(COUNT, 900_001, play);
  } finally {
    DeviceBatch.prototype.makeRoom = makeRoom;
  }
  // All of it happened.
  if (process.env.ZI_SIM_RATES) console.log(seen);
  expect(seen.shared).toBeGreaterThan(COUNT / 25);
  expect(seen.preempted).toBeGreaterThan(COUNT / 25);
  expect(seen.cancelled).toBeGreaterThan(COUNT / 25);
  expect(seen.late).toBeGreaterThan(COUNT / 25);
});

it('the same where keys and values rest in DRAM', async () => {
  await sweep(Math.ceil(COUNT / 2), 950_001, (seed) =>
    play(seed, { kvOffload: true, computesInPlace: false }),
  );
});

/** Whether a planted bug is caught in so many of the first seeds. */
async function isCaught(options: WorldOptions, times: number, seeds = 40): Promise<boolean> {
  let count = 0;
  for (let seed = 1; seed <= seeds && count < times; seed++) {
    try {
      await play(seed, { deviceCount: 1, ...options });
    } catch (error) {
      const known = [HazardError, DeadlockError, WrongResultError, LeakError];
      if (!known.some((kind) => error instanceof kind)) throw error;
      count++;
    }
    if (process.env.ZI_SIM_RATES) console.log(`caught in ${count} of ${seed}`);
  }
  return count === times;
}

it('canaries: pages of another beginning, and pages that two texts write, are caught', async () => {
  const { share, take } = PageCache.prototype;
  const options = { states: false };
  expect(await isCaught(options, 1, Math.ceil(COUNT / 3))).toBe(false);
  try {
    let known: Int32Array | undefined;
    PageCache.prototype.share = function (tokens) {
      const pages = share.call(this, tokens);
      if (pages.length > 0) known = tokens.slice();
      const other = pages.length === 0 && known && known.length < tokens.length;
      return other && known ? share.call(this, known) : pages;
    };
    expect(await isCaught(options, 2)).toBe(true);
    PageCache.prototype.share = share;
    PageCache.prototype.take = function () {
      const page = take.call(this);
      return Object.assign(page, { number: Math.max(0, page.number - 1) });
    };
    expect(await isCaught(options, 5)).toBe(true);
  } finally {
    PageCache.prototype.share = share;
    PageCache.prototype.take = take;
  }
});

it('the same where blocks keep states; canary: sequences that have one state are caught', async () => {
  const options = { states: true };
  await sweep(Math.ceil(COUNT / 2), 975_001, (seed) => play(seed, options));
  const { feed } = Sequence.prototype;
  // Micro-batches of one sequence, or an assertion would say so before anything is computed.
  const alter = (scenario: Scenario) => ({
    ...scenario,
    plan: { ...scenario.plan, microBatchSequences: 1 },
  });
  try {
    Sequence.prototype.feed = function (rules) {
      return { ...feed.call(this, rules), stateSlot: 0 };
    };
    expect(await isCaught({ ...options, alter }, 5)).toBe(true);
  } finally {
    Sequence.prototype.feed = feed;
  }
});

describe('blocks that see only the latest tokens', () => {
  const options = { horizons: true, states: false };

  it('texts are the same, in either tier', async () => {
    await sweep(Math.ceil(COUNT / 8), 985_001, (seed) => play(seed, options));
    await sweep(Math.ceil(COUNT / 8), 990_001, (seed) =>
      play(seed, { ...options, kvOffload: true, computesInPlace: false }),
    );
  });

  const { place, usable, leave } = LatePages.prototype;
  afterEach(() => Object.assign(LatePages.prototype, { place, usable, leave }));

  it('canary: the first page that is still read has gone to another', async () => {
    LatePages.prototype.place = function (microBatches, holders) {
      return place.call(this, microBatches, holders).map((microBatch) => ({
        ...microBatch,
        slices: microBatch.slices.map((slice) => ({
          ...slice,
          latestPages: (slice.latestPages ?? []).map(neighbour),
        })),
      }));
    };
    expect(await isCaught(options, 4, 12)).toBe(true);
  });

  it('canary: a sequence moves on before its latest tokens are behind the window', async () => {
    LatePages.prototype.place = function (microBatches, holders) {
      const further = microBatches.map((microBatch) => ({
        ...microBatch,
        slices: microBatch.slices.map((slice) => ({ ...slice, startPosition: slice.startPosition + 4 })),
      }));
      place.call(this, further, holders);
      return place.call(this, microBatches, holders);
    };
    await expect(isCaught(options, 1)).rejects.toThrow('assertion failed');
  });

  it('canary: a beginning is shared whose latest pages have gone to others', async () => {
    LatePages.prototype.usable = (pages) => pages.length;
    expect(await isCaught(options, 3, 20)).toBe(true);
  });

  it('canary: pages that are given back twice', async () => {
    LatePages.prototype.leave = function (holder) {
      const { late } = holder;
      leave.call(this, holder);
      leave.call(this, { pages: holder.pages, late });
    };
    await expect(isCaught(options, 1)).rejects.toThrow('given back once');
  });

  it('canary: pages that are never given back', async () => {
    LatePages.prototype.leave = (holder) => {
      holder.late = [];
    };
    await expect(isCaught(options, 1)).rejects.toThrow('assertion failed');
  });
});

/** The run with the place beside that of its first page. */
function neighbour({ firstPage, pages: [first = 0, ...others] }: PageRun): PageRun {
  return { firstPage, pages: [Math.max(0, first - 1), ...others] };
}
