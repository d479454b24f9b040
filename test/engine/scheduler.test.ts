// An engine that lives: requests come, go and fail while others run, and each text is what it is alone.

import { describe, expect, it } from 'vitest';
import { GiB, type Offload, type PlanOptions, present, type Workload } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import type { GenerationRequest, GenerationResult } from '../../src/engine/request.js';
import { type PassProgress, Scheduler } from '../../src/engine/scheduler.js';
import { modelFolder } from '../helpers/fixtures.js';
import { randomFrom, randomInt } from '../helpers/random.js';

const FOLDER = modelFolder('llama-biases');
const CONTEXT = 96;
const opened = await openModel(FOLDER);
const { vocabSize } = opened.model;

interface Setting {
  readonly devices?: number;
  readonly offload?: Offload;
  readonly workload?: Partial<Workload>;
  readonly plan?: Partial<PlanOptions>;
}

function openEngine({ devices = 1, offload = 'nvme', workload, plan }: Setting = {}): Promise<Engine> {
  return Engine.open(opened, {
    offload,
    dramBudgetBytes: GiB,
    cpu: { virtualDevices: devices, threads: 1 },
    ...(plan ? { plan } : {}),
    workload: {
      sequences: 8,
      contextTokens: CONTEXT,
      promptTokens: 200,
      output: 'tokens',
      history: true,
      ...workload,
    },
  });
}

async function withEngine<T>(setting: Setting, use: (engine: Engine) => Promise<T>): Promise<T> {
  const engine = await openEngine(setting);
  try {
    return await use(engine);
  } finally {
    await engine.close();
  }
}

/** With the scheduler's own eyes: each pass as it was. */
async function watched<T>(
  setting: Setting,
  use: (scheduler: Scheduler, passes: PassProgress[], engine: Engine) => Promise<T>,
): Promise<T> {
  return withEngine(setting, async (engine) => {
    const passes: PassProgress[] = [];
    const scheduler = new Scheduler(engine.executor, { onPass: (pass) => passes.push(pass) });
    try {
      return await use(scheduler, passes, engine);
    } finally {
      await scheduler.close();
    }
  });
}

function randomTokens(seed: number, length: number): Int32Array {
  const random = randomFrom(seed);
  return Int32Array.from({ length }, () => randomInt(random, vocabSize));
}

function request(index: number, promptLength: number, maxNewTokens: number): GenerationRequest {
  return { index, promptTokens: randomTokens(index + 1, promptLength), maxNewTokens };
}

/** The texts of requests, each computed by itself; from DRAM, as thousands of passes need not read the weights again each time. */
async function alone(requests: readonly GenerationRequest[]): Promise<GenerationResult[]> {
  return withEngine({ devices: 0, offload: 'dram', workload: { sequences: 1 } }, ({ executor }) =>
    generate(executor, requests, { batchSize: 1, maxNewTokens: 1, stopTokens: new Set() }),
  );
}

const allPages = ({ plan, executor }: Engine) =>
  Array.from({ length: executor.batchCount }, () => plan.kvPages);

describe('requests that are submitted', () => {
  it('are told of by phases: their prompts, then their tokens', async () => {
    await watched({}, async (scheduler, passes) => {
      await scheduler.submit(request(0, 20, 3)).result;
      await scheduler.whenIdle();
      expect(passes.map(({ phase }) => phase)).toEqual(['prefill', 'decode', 'decode']);
    });
  });

  it('begin in the next pass beside those that run, and each is told once', async () => {
    const requests = [request(0, 20, 12), request(1, 9, 5), request(2, 30, 3)];
    const expected = await alone(requests);
    await watched({}, async (scheduler, passes, engine) => {
      const [first, second, third] = requests.map((one) => present(one, 'request'));
      const submissions = [scheduler.submit(present(first, 'request'))];
      let seen = 0;
      for await (const { token } of present(submissions[0], 'submission').tokens) {
        expect(token).toBe(expected[0]?.tokens[seen++]);
        if (seen !== 3) continue;
        const before = passes.length;
        submissions.push(
          scheduler.submit(present(second, 'request')),
          scheduler.submit(present(third, 'request')),
        );
        // The pass after this one has all three of them.
        const [newcomer] = await Promise.all([submissions[1]?.tokens[Symbol.asyncIterator]().next()]);
        expect(newcomer).toMatchObject({ value: { token: expected[1]?.tokens[0] } });
        expect(passes.slice(before).map(({ sequences }) => sequences)).toContain(3);
        expect(passes.length - before).toBeLessThanOrEqual(2);
      }
      const results = await Promise.all(submissions.map(({ result }) => result));
      expect(results).toEqual(expected);
      await scheduler.whenIdle();
      expect(scheduler.freePages).toEqual(allPages(engine));
    });
  });

  it('have their own limits, stop tokens, stop functions and draws', async () => {
    const sampling = { temperature: 1, topK: 20, topP: 1, minP: 0, repetitionPenalty: 1.2, seed: 4 };
    const plain = request(0, 12, 16);
    const [text] = await alone([plain]);
    const fourth = present(text?.tokens[3], 'token');
    const requests: GenerationRequest[] = [
      plain,
      { ...plain, maxNewTokens: 2 },
      { ...plain, stopTokens: new Set([fourth]) },
      { ...plain, stopsAfter: (token) => token === fourth },
      { ...plain, sampling },
      { ...plain, sampling, randomIndex: 7 },
    ];
    const expected = await alone(requests);
    const lengths = expected.map(({ tokens }) => tokens.length);
    const at = present(text, 'text').tokens.indexOf(fourth);
    expect(lengths).toEqual([16, 2, at, at + 1, 16, 16]);
    expect(expected[4]?.tokens).not.toEqual(expected[5]?.tokens);
    await withEngine({}, async (engine) => {
      const results = await Promise.all(requests.map((one) => engine.submit(one).result));
      expect(results).toEqual(expected);
    });
  });

  it('end alone with their errors', async () => {
    const good = request(0, 20, 6);
    const [expected] = await alone([good]);
    const bad: [GenerationRequest, string][] = [
      [{ ...good, promptTokens: new Int32Array(0) }, 'EMPTY_PROMPT'],
      [{ ...good, promptTokens: Int32Array.of(3, vocabSize) }, 'BAD_INPUT'],
      [{ ...good, maxNewTokens: 0 }, 'BAD_OPTION'],
      [{ ...good, maxNewTokens: Number.NaN }, 'BAD_OPTION'],
      [{ index: 0, promptTokens: good.promptTokens }, 'BAD_OPTION'],
      [{ ...good, maxNewTokens: CONTEXT }, 'PROMPT_TOO_LONG'],
      [{ ...good, sampling: { ...SAMPLING, temperature: -1 } }, 'BAD_OPTION'],
    ];
    await withEngine({}, async (engine) => {
      const running = engine.submit(good);
      for (const [wrong, code] of bad) {
        const submission = engine.submit(wrong);
        expect(await submission.result).toMatchObject({
          finishReason: 'error',
          tokens: [],
          problem: { code },
        });
        await expect(submission.tokens[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code });
      }
      const scoring = engine.submit({ index: 3, scoredTokens: Int32Array.of(1, 2, 3) });
      expect(await scoring.result).toMatchObject({ problem: { code: 'BAD_OPTION' } });
      expect(await running.result).toEqual(expected);
    });
  });
});

const SAMPLING = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };

describe('cancelling', () => {
  it('ends a request between two passes and leaves the others as they are', async () => {
    const requests = [request(0, 20, 40), request(1, 25, 40), request(2, 5, 40)];
    const expected = await alone(requests);
    await watched({ workload: { sequences: 2 } }, async (scheduler, _passes, engine) => {
      const [first, second, waiting] = requests.map((one) => scheduler.submit(one));
      const before = scheduler.submit(request(3, 5, 5));
      before.cancel();
      expect(await before.result).toMatchObject({ finishReason: 'cancelled', tokens: [] });
      const tokens: number[] = [];
      for await (const { token } of present(second, 'submission').tokens) {
        tokens.push(token);
        if (tokens.length === 4) second?.cancel();
      }
      expect(tokens).toEqual(expected[1]?.tokens.slice(0, 4));
      expect(await second?.result).toMatchObject({ finishReason: 'cancelled', tokens });
      second?.cancel();
      expect(await first?.result).toEqual(expected[0]);
      expect(await waiting?.result).toEqual(expected[2]);
      expect(scheduler.freePages).toEqual(allPages(engine));
    });
  });
});

describe('pages', () => {
  it('a beginning that many requests share is taken in once, also when all come at the same time', async () => {
    const prefix = randomTokens(99, 70);
    const requests = Array.from({ length: 64 }, (_, index) => ({
      index,
      promptTokens: Int32Array.of(...prefix, ...randomTokens(index + 1, 3)),
      maxNewTokens: 4,
    }));
    const expected = await alone(requests);
    for (const promptTokens of [4096, 100, 30]) {
      const setting = { workload: { sequences: 64, promptTokens }, plan: { microBatchTokens: 24 } };
      await watched(setting, async (scheduler, passes, engine) => {
        const results = await Promise.all(requests.map((one) => scheduler.submit(one).result));
        expect(results).toEqual(expected);
        await scheduler.whenIdle();
        const { pageTokens } = engine.plan;
        const shared = Math.floor(70 / pageTokens) * pageTokens;
        // Each has its own rest of the prompt and three tokens more to take in; the fourth only comes out.
        const own = requests.length * (73 - shared + 3);
        expect(passes.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(shared + own);
        expect(scheduler.freePages).toEqual(allPages(engine));
        // What was said goes on: a later turn of a conversation takes in only what is new.
        passes.length = 0;
        const [answer] = results;
        const next = [
          ...present(requests[0], 'request').promptTokens,
          ...present(answer, 'answer').tokens,
          5,
          6,
        ];
        await scheduler.submit({ index: 0, promptTokens: Int32Array.from(next), maxNewTokens: 1 }).result;
        await scheduler.whenIdle();
        const known = Math.floor((next.length - 3) / pageTokens) * pageTokens;
        expect(passes.map(({ tokens }) => tokens)).toEqual([next.length - known]);
      });
    }
  });

  it('grow with texts; where none is left, the youngest makes room and ends with the same text', async () => {
    const requests = Array.from({ length: 24 }, (_, index) => request(index, 3 + ((index * 7) % 30), 40));
    const expected = await alone(requests);
    for (const devices of [1, 3]) {
      const workload = { cachedTokens: 150 };
      await watched({ devices, workload, plan: { pageTokens: 8 } }, async (scheduler, passes, engine) => {
        expect(engine.plan.kvPages).toBe(19);
        const results = await Promise.all(requests.map((one) => scheduler.submit(one).result));
        expect(results).toEqual(expected);
        // More tokens than the texts have, as some were taken in again; and more texts at once than fit to their ends.
        const least = requests.reduce((sum, { promptTokens }) => sum + promptTokens.length + 39, 0);
        expect(passes.reduce((sum, { tokens }) => sum + tokens, 0)).toBeGreaterThan(least);
        expect(Math.max(...passes.map(({ sequences }) => sequences))).toBeGreaterThan(3 * devices);
        expect(scheduler.freePages).toEqual(allPages(engine));
      });
    }
  });
});

describe('an engine without requests', () => {
  it('reads nothing and goes on where it was', async () => {
    const requests = [request(0, 20, 6), request(1, 30, 6)];
    const expected = await alone(requests);
    await withEngine({}, async (engine) => {
      const [first, second] = requests.map((one) => present(one, 'request'));
      expect(await engine.submit(present(first, 'request')).result).toEqual(expected[0]);
      await engine.whenIdle();
      const bytesRead = () => engine.trace.summaries().find(({ lane }) => lane === 'nvme→dram')?.bytes;
      // What was on its way into the last free buffers arrives.
      let before = -1;
      while (before !== bytesRead()) {
        before = present(bytesRead(), 'bytes');
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      await new Promise((resolve) => setTimeout(resolve, 200));
      expect(bytesRead()).toBe(before);
      expect(await engine.submit(present(second, 'request')).result).toEqual(expected[1]);
    });
  });

  it('is closed at any time: what is open is cancelled, what comes later is refused', async () => {
    const engine = await openEngine();
    const running = engine.submit(request(0, 20, 60));
    const waiting = Array.from({ length: 20 }, (_, index) => engine.submit(request(index + 1, 20, 60)));
    for await (const _ of running.tokens) break;
    await engine.close();
    const results = await Promise.all([running, ...waiting].map(({ result }) => result));
    expect(new Set(results.map(({ finishReason }) => finishReason))).toEqual(new Set(['cancelled']));
    expect(engine.executor.leasedBuffers).toBe(0);
    await expect(engine.submit(request(0, 3, 3)).result).rejects.toMatchObject({ code: 'CLOSED' });
    await engine.close();
    const unused = await openEngine();
    await unused.close();
    await expect(unused.submit(request(0, 3, 3)).result).rejects.toMatchObject({ code: 'CLOSED' });
  });
});

it('log-probabilities come with the tokens of those that ask, and change no text', async () => {
  const plain = [request(0, 20, 6), request(1, 30, 6)];
  const expected = await alone(plain);
  await withEngine({}, async (engine) => {
    const [asking, other] = plain.map((one, index) =>
      engine.submit({ ...one, ...(index === 0 ? { logProbs: true } : {}) }),
    );
    const pieces: number[] = [];
    for await (const { logProb } of present(asking, 'submission').tokens) {
      pieces.push(present(logProb, 'log-probability'));
    }
    const result = await present(asking, 'submission').result;
    expect(result).toEqual({ ...expected[0], logProbs: pieces });
    // The likeliest of all tokens is at least as likely as chance.
    for (const logProb of pieces) {
      expect(logProb).toBeLessThan(0);
      expect(logProb).toBeGreaterThanOrEqual(-Math.log(vocabSize));
    }
    expect(await other?.result).toEqual(expected[1]);
  });
});

describe.each([1, 3])('250 requests with random limits, cancels and errors on %d devices', (devices) => {
  it('each ends once, those that end have the text that they have alone, and every page and buffer is back', async () => {
    const random = randomFrom(31 + devices);
    const prefixes = [randomTokens(1, 40), randomTokens(2, 17), randomTokens(3, 0)];
    const requests = Array.from({ length: 250 }, (_, index): GenerationRequest => {
      const prefix = present(prefixes[randomInt(random, prefixes.length)], 'prefix');
      const rest = randomTokens(index, randomInt(random, 24));
      const promptTokens = Int32Array.of(...prefix, ...rest);
      const maxNewTokens = random() < 0.05 ? 0 : 1 + randomInt(random, 20);
      const sampling = { ...SAMPLING, seed: index, repetitionPenalty: random() < 0.5 ? 1 : 1.1 };
      return { index, promptTokens, maxNewTokens, ...(random() < 0.3 ? { sampling } : {}) };
    });
    const expected = await alone(requests);
    const setting = {
      devices,
      workload: { sequences: 6, cachedTokens: 200, promptTokens: 60 },
      plan: { pageTokens: 8, microBatchTokens: 20 },
    };
    await watched(setting, async (scheduler, passes, engine) => {
      const told = new Map<number, number>();
      const results: Promise<GenerationResult>[] = [];
      let next = 0;
      // As fast as chance has it, while passes go on.
      while (next < requests.length) {
        for (let count = randomInt(random, 12); count > 0 && next < requests.length; count--) {
          const submission = scheduler.submit(present(requests[next++], 'request'));
          const cancelAfter = random() < 0.15 ? randomInt(random, 8) : Number.POSITIVE_INFINITY;
          if (cancelAfter === 0) submission.cancel();
          else if (cancelAfter < 8) {
            void (async () => {
              let seen = 0;
              for await (const _ of submission.tokens) if (++seen === cancelAfter) submission.cancel();
            })().catch(() => undefined);
          }
          results.push(submission.result);
          submission.result.then(({ index }) => told.set(index, (told.get(index) ?? 0) + 1));
        }
        const before = passes.length;
        while (scheduler.openRequests > 10 && passes.length < before + 3) {
          await new Promise((resolve) => setImmediate(resolve));
        }
      }
      const ended = await Promise.all(results);
      await scheduler.whenIdle();
      expect([...told.values()].every((times) => times === 1)).toBe(true);
      expect(told.size).toBe(250);
      let cancelled = 0;
      for (const [index, result] of ended.entries()) {
        const text = present(expected[index], 'text');
        if (result.finishReason !== 'cancelled') expect(result).toEqual(text);
        else {
          cancelled++;
          expect(result.tokens).toEqual(text.tokens.slice(0, result.tokens.length));
        }
      }
      expect(cancelled).toBeGreaterThan(10);
      expect(scheduler.openRequests).toBe(0);
      expect(scheduler.freePages).toEqual(allPages(engine));
      await scheduler.close();
      expect(engine.executor.leasedBuffers).toBe(0);
    });
  });
});
