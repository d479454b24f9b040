// What `generate` is to do: prompts are encoded a few at a time, however many there are, and forgotten when they are done.

import { expect, test } from 'vitest';
import {
  encodeJob,
  fillJob,
  type Job,
  openPlaces,
  textCount,
  workloadOf,
} from '../../src/cli/generation/job.js';
import { listOf } from '../../src/cli/generation/prompt-list.js';
import type { Prompt } from '../../src/cli/generation/prompts.js';
import { RequestFeed } from '../../src/cli/generation/request-feed.js';
import type { GenerateOptions } from '../../src/cli/options/generate-options.js';
import { openModel } from '../../src/engine/open-model.js';
import type { GenerationRequest } from '../../src/engine/request.js';
import { GREEDY } from '../../src/engine/sampler.js';
import { modelFolder } from '../helpers/fixtures.js';

const SOME: Partial<GenerateOptions> = {
  prompts: [],
  batchSize: 1,
  batchCount: 1,
  maxNewTokens: 4,
  maxContext: undefined,
  chat: undefined,
  stopStrings: [],
  samples: undefined,
  sampling: GREEDY,
  promptsFile: undefined,
  ignoreEos: true,
  benchmark: undefined,
};
const OPTIONS = SOME as GenerateOptions;

const source = { opened: await openModel(modelFolder('stories260K')), files: [], fileStates: [] };
const GIVEN: Prompt[] = [{ text: 'Once upon a time' }, { text: 'A dog' }];
const SILENT = {
  log: { info: () => undefined },
  progress: { during: (_: () => string, work: Promise<unknown>) => work },
  interrupt: { signal: new AbortController().signal },
} as unknown as Parameters<typeof encodeJob>[3];

function jobOf(given: readonly Prompt[], options = OPTIONS): Promise<Job> {
  return encodeJob(source, listOf(given), options, SILENT);
}

async function requestsOf(job: Job, options = OPTIONS): Promise<GenerationRequest[]> {
  const feed = new RequestFeed(job, openPlaces(job, new Set()), options);
  const requests: GenerationRequest[] = [];
  while (requests.length < feed.length) requests.push(await feed.next());
  return requests;
}

test('a thousand prompts are encoded in batches, in order, each text once', async () => {
  const many = Array.from({ length: 1000 }, (_, index) => ({
    text: `dog ${'a '.repeat(index % 7)}${index}`,
  }));
  const options = { ...OPTIONS, samples: 2, sampling: { ...GREEDY, temperature: 1 } };
  const job = await jobOf(many, options);
  const feed = new RequestFeed(job, openPlaces(job, new Set([3, 4, 5])), options);
  const places: number[] = [];
  for (let given = 0; given < feed.length; given++) {
    const { index, sample = 0, promptTokens } = await feed.next();
    const place = index * 2 + sample;
    places.push(place);
    expect(promptTokens.length).toBe(job.sizes.promptTokens[index]);
    expect(feed.promptOf(place)).toMatchObject({ index, sample, text: many[index]?.text });
    feed.finished(place);
    expect(() => feed.promptOf(place)).toThrow();
  }
  expect(places).toEqual([...Array(2000).keys()].filter((place) => place < 3 || place > 5));
});

test('the plan has room for the longest of each batch, and for what lines ask for themselves', async () => {
  const asking = [
    ...GIVEN,
    { text: 'A dog', own: { maxNewTokens: 50, sampling: { repetitionPenalty: 1.2 } } },
  ];
  const [plain, job] = [await jobOf(GIVEN), await jobOf(asking)];
  const [first = 0, second = 0] = job.sizes.promptTokens;
  const wide = { ...OPTIONS, batchSize: 2 };
  const workload = (one: Job) => workloadOf(one, openPlaces(one, new Set()), wide);
  const together = { sequences: 2, promptTokens: first + second, output: 'tokens' };
  expect(workload(plain)).toEqual({ ...together, contextTokens: first + 4, newTokens: 4, history: false });
  expect(workload(job)).toEqual({ ...together, contextTokens: second + 50, newTokens: 50, history: true });
});

test('a request has what its prompt asks for, and the run’s settings for the rest', async () => {
  const own = { maxNewTokens: 9, ignoreEos: false, sampling: { temperature: 0.5, seed: 3 } };
  const options = { ...OPTIONS, sampling: { ...GREEDY, topK: 7, seed: 11 } };
  const given = [
    { text: 'A dog' },
    { text: 'A dog', own },
    { text: 'A dog', own: { sampling: { temperature: 1 } } },
  ];
  const job = await jobOf(given, options);
  const [plain, one, other] = await requestsOf(job, options);
  expect(plain?.sampling).toBeUndefined();
  expect(plain).toMatchObject({ maxNewTokens: 4, stopTokens: new Set() });
  expect(one).toMatchObject({ maxNewTokens: 9, stopTokens: job.endTokens });
  expect(one?.sampling).toEqual({ ...GREEDY, topK: 7, temperature: 0.5, seed: 3 });
  expect(other?.sampling).toEqual({ ...GREEDY, topK: 7, temperature: 1, seed: 11 });
  // A seed of its own makes a text that does not depend on where it stands.
  expect([one?.randomIndex, other?.randomIndex]).toEqual([0, undefined]);
  expect(job.sizes.drawn).toBe(true);
  expect((await jobOf(given.slice(0, 2), options)).sizes.drawn).toBe(false);
});

test('a batch is filled with prompts that repeat, each with a place of its own', async () => {
  const wide = { ...OPTIONS, batchSize: 5, samples: 2 };
  const builtIn = await jobOf([], wide);
  const more = { ...wide, batchSize: builtIn.prompts.length + 3 };
  const filled = fillJob(builtIn, more);
  expect(filled.prompts).toHaveLength(builtIn.prompts.length + 3);
  expect(textCount(filled)).toBe(2 * filled.prompts.length);
  const requests = await requestsOf(filled, more);
  expect(requests.map(({ index, sample = 0 }) => 2 * index + sample)).toEqual([...Array(22).keys()]);
  expect(requests.at(-1)?.promptTokens).toEqual(requests[4]?.promptTokens);
  // One's own are only repeated to measure.
  const own = await jobOf(GIVEN, OPTIONS);
  expect(fillJob(own, wide).prompts).toHaveLength(2);
  const timed = { ...wide, benchmark: { warmupCycles: 0, cycles: 1 } };
  expect(fillJob(own, timed).prompts).toHaveLength(5);
});
