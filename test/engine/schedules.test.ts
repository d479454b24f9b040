// Thousands of short lives of an engine whose cache holds hashes: whatever comes, shares, makes room, throws or is
// cancelled, each request ends once with the text that it has alone, and every page comes back.

import { describe, expect, it } from 'vitest';
import { OperatingError, present } from '../../offload/index.js';
import { mostHeldPages } from '../../offload/model/horizon.js';
import { DeviceBatch } from '../../src/engine/device-batch.js';
import type { GenerationResult } from '../../src/engine/request.js';
import { Scheduler } from '../../src/engine/scheduler.js';
import type { Submission } from '../../src/engine/submission.js';
import { HashedCache, type HashedSetting, type HashedSizes } from '../helpers/hashed-cache.js';
import { randomFrom, randomInt } from '../helpers/random.js';

type Random = () => number;

const pick = <T>(random: Random, of: readonly T[]) => present(of[randomInt(random, of.length)], 'choice');

function drawSetting(random: Random): HashedSetting {
  const pageTokens = pick(random, [1, 2, 4, 4, 8, 16, 64]);
  const contextTokens = 8 + randomInt(random, 80);
  const sequences = 1 + randomInt(random, 8);
  const pages = Math.ceil(contextTokens / pageTokens);
  const passTokens = Math.max(sequences, pick(random, [1, 8, 16, 40, 500]));
  const most = 1 + randomInt(random, contextTokens);
  const rule = randomInt(random, 4);
  const horizon = { tokens: 1 + randomInt(random, pick(random, [4, 20, 60])), inChunks: random() < 0.4 };
  const spoils = random() < 0.15 ? () => random() < 0.004 : undefined;
  const sizes: HashedSizes = {
    pageTokens,
    contextTokens,
    sequences,
    kvPages: pages + randomInt(random, pick(random, [1, 2, 4, pages * sequences])),
    passTokens,
    microBatchTokens: Math.min(passTokens, 1 + randomInt(random, pick(random, [4, 16, 64, 500]))),
    microBatchSequences: 1 + randomInt(random, sequences),
  };
  const held = mostHeldPages(horizon, sequences, sizes);
  const isLate = held < sizes.kvPages && random() < 0.8;
  return {
    sizes,
    horizons: isLate ? [{ horizon, pages: held, bufferPages: 0 }] : [],
    // With few tokens, texts are alike beyond their prompts.
    vocabSize: pick(random, [1, 2, 50]),
    deviceCount: 1 + randomInt(random, 2),
    ...(rule < 2 ? { lengthDependentAfterTokens: most } : {}),
    ...(rule === 0 ? { recomputeAtTokens: most + 1 } : {}),
    ...(spoils ? { spoils } : {}),
    runsAhead: random() < 0.7,
    ...(random() < 0.03 ? { failingPass: 5 + randomInt(random, 60) } : {}),
  };
}

interface Asked {
  readonly submission: Submission;
  readonly prompt: Int32Array;
  readonly maxNewTokens: number;
  readonly throws: boolean;
  readonly ends: (GenerationResult | { readonly error: unknown })[];
}

const seen = { ahead: 0, preempted: 0, cancelled: 0, thrown: 0, notFinite: 0, stopped: 0, whole: 0, late: 0 };

/** What may make the whole engine end. */
const isExpected = (error: unknown) =>
  error instanceof OperatingError
    ? error.code === 'CLOSED'
    : error instanceof Error && error.message === 'the device has failed';

class Life {
  readonly #random: Random;
  readonly #setting: HashedSetting;
  readonly #cache: HashedCache;
  readonly #scheduler: Scheduler;
  readonly #beginnings: number[][];
  readonly #asked: Asked[] = [];
  readonly #logProbShare: number;
  #left: number;

  constructor(seed: number) {
    const random = randomFrom(seed);
    this.#random = random;
    this.#setting = drawSetting(random);
    this.#cache = new HashedCache(this.#setting);
    this.#logProbShare = pick(random, [0, 0.02, 0.5]);
    const { contextTokens } = this.#setting.sizes;
    this.#beginnings = [0, 1, 2].map(() => this.#tokens(randomInt(random, contextTokens)));
    this.#left = 4 + randomInt(random, pick(random, [10, 40]));
    const closesAt = random() < 0.1 ? randomInt(random, 60) : Number.POSITIVE_INFINITY;
    this.#scheduler = new Scheduler(this.#cache.executor, {
      sharesPages: random() < 0.9,
      onPass: () => {
        this.#askSome(2);
        if (random() < 0.05 && this.#asked.length > 0) pick(random, this.#asked).submission.cancel();
        if (this.#cache.passes >= closesAt) void this.#scheduler.close();
      },
    });
  }

  async run(): Promise<void> {
    let failure: unknown;
    const idle = () =>
      this.#scheduler.whenIdle().catch((error: unknown) => {
        failure = error;
      });
    while (this.#left > 0) {
      this.#askSome(4);
      await idle();
    }
    await idle();
    seen.ahead += this.#cache.ahead;
    const { kvPages } = this.#setting.sizes;
    expect(this.#scheduler.freePages.every((pages) => pages === kvPages)).toBe(true);
    const late = (this.#setting.horizons ?? []).map(({ pages }) => pages);
    expect(this.#scheduler.freeLatePages.every((free) => free.join() === late.join())).toBe(true);
    if (late.length > 0) seen.late++;
    expect(this.#scheduler.openRequests).toBe(0);
    await Promise.all([this.#scheduler.close(), this.#scheduler.close()]);
    expect(this.#cache.isInSession).toBe(false);
    if (failure !== undefined && !isExpected(failure)) throw failure;
    for (const asked of this.#asked) this.#check(asked, failure !== undefined);
  }

  #tokens(count: number): number[] {
    return Array.from({ length: count }, () => randomInt(this.#random, this.#setting.vocabSize));
  }

  #askSome(most: number): void {
    for (let count = randomInt(this.#random, most + 1); count > 0 && this.#left > 0; count--) this.#ask();
  }

  #ask(): void {
    const random = this.#random;
    const { contextTokens, pageTokens }: HashedSizes = this.#setting.sizes;
    const beginning = pick(random, [[], ...this.#beginnings]);
    const isCut = random() < 0.5;
    const length = isCut ? beginning.length - (beginning.length % pageTokens) : beginning.length;
    const tokens = [...beginning.slice(0, length), ...this.#tokens(randomInt(random, 4))];
    const prompt = Int32Array.from(tokens.slice(0, contextTokens - 1));
    const room = contextTokens - prompt.length;
    const maxNewTokens = random() < 0.1 ? room + randomInt(random, 2) : 1 + randomInt(random, room);
    const often = (share: number) => (random() < share ? 1 + randomInt(random, 5) : 0);
    const [stopAt, throwAt, cancelAt, leaveAt] = [often(0.2), often(0.04), often(0.05), often(0.1)];
    let told = 0;
    const stopsAfter = () => {
      told++;
      if (told === cancelAt) submission.cancel();
      if (told === throwAt) throw new TypeError('a function of the request');
      return told === stopAt;
    };
    const index = this.#left--;
    const request = {
      index,
      promptTokens: prompt,
      maxNewTokens,
      logProbs: random() < this.#logProbShare,
      stopsAfter,
    };
    const submission = this.#scheduler.submit(request);
    const ends: Asked['ends'] = [];
    submission.result.then(
      (result) => ends.push(result),
      (error: unknown) => ends.push({ error }),
    );
    if (random() < 0.03) submission.cancel();
    if (leaveAt > 0) void readSome(submission, leaveAt);
    this.#asked.push({ submission, prompt, maxNewTokens, throws: throwAt > 0, ends });
  }

  #check({ prompt, maxNewTokens, throws, ends }: Asked, hasFailed: boolean): void {
    expect(ends.length).toBe(1);
    const [end] = ends;
    if (!end || 'error' in end) {
      const isOwn = end?.error instanceof TypeError;
      expect(isOwn ? throws : hasFailed && isExpected(end?.error)).toBe(true);
      if (isOwn) seen.thrown++;
      return;
    }
    const { tokens, finishReason, problem } = end;
    if (problem?.code === 'NOT_FINITE') {
      expect(this.#setting.spoils).toBeDefined();
      seen.notFinite++;
    } else if (problem) expect(['PROMPT_TOO_LONG', 'EMPTY_PROMPT']).toContain(problem.code);
    if (tokens.length > 0) expect(tokens).toEqual(this.#cache.text(prompt, tokens.length));
    if (finishReason === 'length') {
      expect(tokens.length).toBe(maxNewTokens);
      seen.whole++;
    } else if (finishReason === 'cancelled') seen.cancelled++;
    else if (finishReason === 'stop') seen.stopped++;
  }
}

/** Reads a few tokens and leaves. */
async function readSome({ tokens }: Submission, count: number): Promise<void> {
  let read = 0;
  try {
    for await (const _ of tokens) if (++read === count) break;
  } catch {
    // Its result is looked at.
  }
}

describe('an engine whose cache holds hashes', () => {
  it('gives each request its own text and ends it once, whatever happens beside it', async () => {
    const { makeRoom } = DeviceBatch.prototype;
    DeviceBatch.prototype.makeRoom = function () {
      const preempted = makeRoom.call(this);
      seen.preempted += preempted.length;
      return preempted;
    };
    try {
      for (let seed = 1; seed <= 1000; seed++) {
        await new Life(seed).run().catch((error: unknown) => {
          throw new Error(`seed ${seed}: ${String(error)}`, { cause: error });
        });
      }
    } finally {
      DeviceBatch.prototype.makeRoom = makeRoom;
    }
    // All of it happened.
    for (const times of Object.values(seen)) expect(times).toBeGreaterThan(50);
  });
});
