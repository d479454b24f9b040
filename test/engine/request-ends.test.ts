// How single requests end beside others: by their own functions, between passes, with a cache that was spoilt, at the close.

import { expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { FirstCome } from '../../src/engine/first-come.js';
import type { GenerationRequest } from '../../src/engine/request.js';
import { Scheduler } from '../../src/engine/scheduler.js';
import { HashedCache, type HashedSetting } from '../helpers/hashed-cache.js';
import { randomFrom, randomInt } from '../helpers/random.js';

const sizes = {
  pageTokens: 4,
  kvPages: 24,
  sequences: 4,
  contextTokens: 32,
  passTokens: 64,
  microBatchTokens: 64,
  microBatchSequences: 4,
};

function open(more: Partial<HashedSetting> = {}): { cache: HashedCache; scheduler: Scheduler } {
  const cache = new HashedCache({ sizes, vocabSize: 50, deviceCount: 1, ...more });
  return { cache, scheduler: new Scheduler(cache.executor) };
}

function request(index: number, maxNewTokens: number): GenerationRequest {
  const promptTokens = Int32Array.from({ length: 9 }, (_, at) => (at * 7 + index) % 50);
  return { index, promptTokens, maxNewTokens };
}

it('a stop function that throws ends its own request with that', async () => {
  const { cache, scheduler } = open();
  const wrong = new TypeError('a fault of whoever asked');
  let calls = 0;
  const stopsAfter = () => {
    if (++calls === 3) throw wrong;
    return false;
  };
  const [throwing, other] = [
    scheduler.submit({ ...request(0, 9), stopsAfter }),
    scheduler.submit(request(1, 9)),
  ];
  await expect(throwing.result).rejects.toBe(wrong);
  const told: number[] = [];
  const read = async () => {
    for await (const { token } of throwing.tokens) told.push(token);
  };
  await expect(read()).rejects.toBe(wrong);
  const { promptTokens } = request(0, 9) as { promptTokens: Int32Array };
  expect(told).toEqual(cache.text(promptTokens, 3));
  expect((await other.result).tokens.length).toBe(9);
  expect((await scheduler.submit(request(2, 2)).result).finishReason).toBe('length');
  expect(scheduler.freePages).toEqual([sizes.kvPages]);
  await scheduler.close();
});

it('no pass is made for requests that are cancelled between two passes', async () => {
  const cache = new HashedCache({ sizes, vocabSize: 50, deviceCount: 1, streams: true });
  const scheduler: Scheduler = new Scheduler(cache.executor, { onPass: () => first.cancel() });
  const first = scheduler.submit(request(0, 20));
  await scheduler.whenIdle();
  expect(await first.result).toMatchObject({ finishReason: 'cancelled', tokens: { length: 1 } });
  expect(cache.passes).toBe(1);
  await scheduler.close();
});

it.each([true, false])(
  'whoever asked is told of a pass before the next one begins, or beside it where layers rest (streams: %s)',
  async (streams) => {
    const cache = new HashedCache({ sizes, vocabSize: 50, deviceCount: 1, streams });
    const told: string[] = [];
    const onPass = () => told.push(`pass of ${cache.passes}`);
    const scheduler = new Scheduler(cache.executor, {
      onPass,
      queue: {
        length: 2,
        next: async () => ({
          request: request(told.length, told.length === 0 ? 3 : 1),
          listener: {
            onToken: () => told.push(`token of ${cache.passes}`),
            onFinished: ({ tokens }) => told.push(`end with ${tokens.length} of ${cache.passes}`),
          },
        }),
      },
      batchSize: 1,
    });
    await scheduler.whenIdle();
    const late = streams ? 0 : 1;
    expect(told).toEqual(
      [
        [`token of ${1 + late}`, `pass of ${1 + late}`],
        [`token of ${2 + late}`, `pass of ${2 + late}`],
        [`token of ${3 + late}`, `end with 3 of ${3 + late}`, `pass of ${3 + late}`],
        // Nothing comes behind the last pass.
        ['token of 4', 'end with 1 of 4', 'pass of 4'],
      ].flat(),
    );
  },
);

it('of a pass after which files have changed nobody is told, and nobody has ended with it', async () => {
  let looks = 0;
  const changed = new Error('a file has changed');
  const { cache, scheduler } = open({
    checkFiles: () => {
      if (++looks === 3) throw changed;
    },
  });
  const submissions = [3, 9].map((newTokens, index) => scheduler.submit(request(index, newTokens)));
  for (const submission of submissions) {
    const told: number[] = [];
    const read = async () => {
      for await (const { token } of submission.tokens) told.push(token);
    };
    await expect(read()).rejects.toBe(changed);
    expect(told.length).toBe(2);
    await expect(submission.result).rejects.toBe(changed);
  }
  await expect(scheduler.whenIdle()).rejects.toBe(changed);
  expect(cache.isInSession).toBe(false);
});

it('a listener that throws ends its own request, with what it was told of', async () => {
  const { cache, scheduler } = open();
  const wrong = new TypeError('a fault of whoever listens');
  const ended: unknown[] = [];
  const other = scheduler.submit(request(1, 9));
  const submission = scheduler.submit(request(0, 9));
  const { onToken } = submission;
  let calls = 0;
  submission.onToken = (token, logProb) => {
    onToken.call(submission, token, logProb);
    if (++calls === 3) throw wrong;
  };
  await submission.result.catch((error: unknown) => ended.push(error));
  expect(ended).toEqual([wrong]);
  expect(calls).toBe(3);
  expect((await other.result).tokens.length).toBe(9);
  expect(scheduler.freePages).toEqual([sizes.kvPages]);
  expect(cache.isInSession).toBe(true);
  await scheduler.close();
});

it('what was in the cache of a text with wrong numbers is not read by those that begin alike', async () => {
  let written = 0;
  const { cache, scheduler } = open({ spoils: () => ++written === 2 });
  const spoilt = await scheduler.submit(request(0, 8)).result;
  expect(spoilt.problem?.message).toContain('computed again, they are');
  const again = await scheduler.submit(request(0, 8)).result;
  expect(again).toMatchObject({ finishReason: 'length' });
  const { promptTokens } = request(0, 8) as { promptTokens: Int32Array };
  expect(again.tokens).toEqual(cache.text(promptTokens, 8));
  await scheduler.close();
});

it('two that close an engine both wait until its session has ended', async () => {
  const { cache, scheduler } = open();
  const running = scheduler.submit(request(0, 20));
  await new Promise((resolve) => setImmediate(resolve));
  const isOpen: boolean[] = [];
  await Promise.all([1, 2].map(() => scheduler.close().then(() => isOpen.push(cache.isInSession))));
  expect(isOpen).toEqual([false, false]);
  expect((await running.result).finishReason).toBe('cancelled');
  await expect(scheduler.submit(request(1, 2)).result).rejects.toMatchObject({ code: 'CLOSED' });
});

it('tells the first of a set, whatever leaves and comes back', () => {
  const random = randomFrom(5);
  const set = new FirstCome<{ readonly name: number }>();
  let plain: { readonly name: number }[] = [];
  for (let name = 0; name < 2000; name++) {
    const item =
      plain.length > 0 && random() < 0.3 ? present(plain[randomInt(random, plain.length)], 'item') : { name };
    if (!plain.includes(item)) plain.push(item);
    set.add(item);
    while (plain.length > 0 && random() < 0.48) {
      const leaving = random() < 0.5 ? plain[0] : plain[randomInt(random, plain.length)];
      plain = plain.filter((other) => other !== leaving);
      expect(set.delete(present(leaving, 'item'))).toBe(true);
      if (random() < 0.2) expect(set.delete(present(leaving, 'item'))).toBe(false);
    }
    expect(set.first).toBe(plain[0]);
    expect(set.size).toBe(plain.length);
  }
  expect([...set]).toEqual(plain);
});
