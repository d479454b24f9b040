// Uneven prompts on real kernels: the batch stays full, texts are what they are alone, and failures end everything.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  CpuBackend,
  Executor,
  GiB,
  makeTransfer,
  type Offload,
  OperatingError,
  type PlanOptions,
  present,
  Trace,
} from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import type { GenerationRequest, GenerationResult } from '../../src/engine/request.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { JsonLinesFile } from '../../src/files/json-lines-file.js';
import { failingDevice } from '../helpers/failing-device.js';
import { modelFolder } from '../helpers/fixtures.js';
import { randomFrom, randomInt } from '../helpers/random.js';
import { tempFolder } from '../helpers/temp-folder.js';

const FOLDER = modelFolder('llama-biases');
const MOST_NEW_TOKENS = 24;
const LONGEST_PROMPT = 60;
/** Nine times and more what any setting has places for. */
const COUNT = 150;

interface Setting {
  readonly devices: number;
  readonly batchSize: number;
  /** Default: all on the drive. */
  readonly offload?: Offload;
  readonly plan?: Partial<PlanOptions>;
  /** Tokens of prompts that a pass is planned for. */
  readonly promptTokens?: number;
}

/** Prompts of 1 to 60 tokens whose texts have 1 to 24. */
function unevenRequests(count: number, vocabSize: number): GenerationRequest[] {
  const random = randomFrom(11);
  return Array.from({ length: count }, (_, index) => ({
    index,
    promptTokens: Int32Array.from({ length: 1 + randomInt(random, LONGEST_PROMPT) }, () =>
      randomInt(random, vocabSize),
    ),
  }));
}

function lengthOf({ index }: GenerationRequest): number {
  return 1 + ((Math.imul(index + 1, 0x9e3779b1) >>> 16) % MOST_NEW_TOKENS);
}

function stopsAfter(request: GenerationRequest) {
  let made = 0;
  return () => ++made === lengthOf(request);
}

const OPTIONS = { maxNewTokens: MOST_NEW_TOKENS, stopTokens: new Set<number>(), stopsAfter };

async function withEngine<T>(setting: Setting, use: (engine: Engine) => Promise<T>): Promise<T> {
  const engine = await Engine.open(await openModel(FOLDER), {
    offload: setting.offload ?? 'nvme',
    dramBudgetBytes: GiB,
    cpu: { virtualDevices: setting.devices, threads: 1 },
    ...(setting.plan ? { plan: setting.plan } : {}),
    workload: {
      sequences: setting.batchSize,
      contextTokens: LONGEST_PROMPT + MOST_NEW_TOKENS,
      promptTokens: setting.promptTokens ?? setting.batchSize * 40,
      output: 'tokens',
    },
  });
  try {
    return await use(engine);
  } finally {
    await engine.close();
  }
}

async function run(
  setting: Setting,
  requests: readonly GenerationRequest[],
): Promise<{ results: GenerationResult[]; finished: number[]; passes: PassProgress[] }> {
  const finished: number[] = [];
  const passes: PassProgress[] = [];
  const results = await withEngine(setting, ({ executor }) =>
    generate(executor, requests, {
      ...OPTIONS,
      batchSize: setting.batchSize,
      onFinished: ({ index }) => finished.push(index),
      onPass: (pass) => passes.push(pass),
    }),
  );
  return { results, finished, passes };
}

const { vocabSize } = (await openModel(FOLDER)).model;
const REQUESTS = unevenRequests(COUNT, vocabSize);
// Thousands of passes, which need not read the weights again each time.
const alone = await run({ devices: 0, batchSize: 1, offload: 'dram' }, REQUESTS);

it('the prompts are such that a mistake would show', () => {
  expect(new Set(alone.results.map(({ tokens }) => tokens.join())).size).toBeGreaterThan(0.7 * COUNT);
  expect(new Set(alone.results.map(({ tokens }) => tokens.length)).size).toBe(MOST_NEW_TOKENS);
});

describe(`${COUNT} uneven prompts`, () => {
  it.each<Setting>([
    { devices: 1, batchSize: 16 },
    { devices: 3, batchSize: 8 },
    { devices: 8, batchSize: 2 },
    { devices: 4, batchSize: 3, plan: { transfer: makeTransfer('none', 'given') } },
    { devices: 2, batchSize: 7, plan: { microBatchTokens: 16, microBatchSequences: 3 } },
  ])(
    'on $devices devices, $batchSize at once: full to the last prompt, and each text as alone',
    async (setting) => {
      const { results, finished, passes } = await run(setting, REQUESTS);
      expect(results).toEqual(alone.results);
      expect([...finished].sort((a, b) => a - b)).toEqual([...REQUESTS.keys()]);
      // Completion has an order of its own: short texts overtake long ones.
      expect(finished).not.toEqual([...REQUESTS.keys()]);
      const busy = passes.filter(({ waitingPrompts }) => waitingPrompts > 0);
      const [work, places] = [busy.map((pass) => pass.sequences), busy.map((pass) => pass.capacity)].map(
        (all) => all.reduce((sum, one) => sum + one, 0),
      );
      expect(present(work, 'work') / present(places, 'places')).toBeGreaterThanOrEqual(0.95);
      expect(passes.at(-1)).toMatchObject({ finishedPrompts: COUNT, totalPrompts: COUNT, doneShare: 1 });
      const shares = passes.map(({ doneShare }) => doneShare);
      expect(shares).toEqual([...shares].sort((a, b) => a - b));
    },
  );

  it('whatever their order', async () => {
    const order = [...REQUESTS].sort((a, b) => lengthOf(a) - lengthOf(b) || a.index - b.index);
    const { results } = await run({ devices: 2, batchSize: 5 }, order);
    expect([...results].sort((a, b) => a.index - b.index)).toEqual(alone.results);
  });

  it('in passes that take prompts only bit by bit, beside those that go on', async () => {
    const setting = { devices: 2, batchSize: 4, promptTokens: 1, plan: { microBatchTokens: 3 } };
    const some = REQUESTS.slice(0, 40);
    const { results, passes } = await run(setting, some);
    expect(results).toEqual(alone.results.slice(0, 40));
    expect(new Set(passes.map(({ phase }) => phase))).toEqual(new Set(['prefill', 'mixed', 'decode']));
  });

  it('drawn, with a penalty that looks at all tokens: the same with the same seed', async () => {
    const sampling = { temperature: 1.2, topK: 40, topP: 0.95, minP: 0, repetitionPenalty: 1.1, seed: 9 };
    const drawn = REQUESTS.slice(0, 60).map((request) => ({ ...request, sampling }));
    const plan = async (devices: number, batchSize: number) => {
      const workload = {
        contextTokens: LONGEST_PROMPT + MOST_NEW_TOKENS,
        output: 'tokens',
        history: true,
      } as const;
      const engine = await Engine.open(await openModel(FOLDER), {
        offload: 'dram',
        cpu: { virtualDevices: devices, threads: 1 },
        workload: { ...workload, sequences: batchSize, promptTokens: 100 },
      });
      const results = await generate(engine.executor, drawn, { ...OPTIONS, batchSize });
      await engine.close();
      return results;
    };
    expect(await plan(3, 4)).toEqual(await plan(1, 9));
  });
});

describe('fewer prompts than places', () => {
  it.each([
    [1, 4],
    [3, 8],
    [5, 4],
  ])('%d prompts on %d devices', async (count, devices) => {
    const { results, passes } = await run({ devices, batchSize: 3 }, REQUESTS.slice(0, count));
    expect(results).toEqual(alone.results.slice(0, count));
    // Spread over the devices, rather than piled on the first.
    expect(present(passes[0], 'pass').microBatches).toBe(Math.min(count, devices));
  });

  it('none at all', async () => {
    expect(await run({ devices: 2, batchSize: 3 }, [])).toMatchObject({ results: [], passes: [] });
  });
});

describe('a device that fails in the middle', () => {
  it.each([
    [0, 'peer'],
    [1, 'peer'],
    [2, 'peer'],
    [1, 'none'],
  ] as const)(
    'device %d, gather %s: all streams end with its error, and what is finished is on disk',
    async (device, gather) => {
      const { model, checkpoint } = await openModel(FOLDER);
      const transfer = makeTransfer(gather, 'given');
      const setting = { devices: 3, batchSize: 4, plan: { transfer } };
      const plan = await withEngine(setting, async (engine) => engine.plan);
      const backend = new CpuBackend({ virtualDevices: 3, threads: 1 });
      const { files } = checkpoint;
      const executor = await Executor.create({
        model,
        plan,
        backend: failingDevice(backend, device, 2000),
        paths: files,
        trace: new Trace(false),
      });
      const path = join(tempFolder(), 'results.jsonl');
      const file = new JsonLinesFile(path, '--output');
      file.open();
      const error: unknown = await generate(executor, REQUESTS, {
        ...OPTIONS,
        batchSize: 4,
        onFinished: (result) => file.write({ ...result }),
      }).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(OperatingError);
      expect(error).toMatchObject({
        code: 'DEVICE_FAILED',
        message: expect.stringMatching(/row 1000 of token 0/),
      });
      // Once, and not who waited for whom.
      expect((error as Error).message.match(/cpu:\d/g)).toEqual([`cpu:${device}`]);
      expect(executor.leasedBuffers).toBe(0);
      const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
      const finished = lines.map((line) => JSON.parse(line) as GenerationResult);
      expect(finished.length).toBeGreaterThan(5);
      expect(finished.length).toBeLessThan(COUNT);
      for (const result of finished) expect(result).toEqual(alone.results[result.index]);
      await backend.close();
    },
  );
});

it('an abort ends all streams between two passes', async () => {
  await withEngine({ devices: 2, batchSize: 4 }, async ({ executor }) => {
    const controller = new AbortController();
    let passes = 0;
    const running = generate(executor, REQUESTS, {
      ...OPTIONS,
      batchSize: 4,
      signal: controller.signal,
      onPass: () => {
        if (++passes === 30) controller.abort(new Error('enough'));
      },
    });
    await expect(running).rejects.toThrow('enough');
    expect(passes).toBe(30);
    expect(executor.leasedBuffers).toBe(0);
    // The executor is as good as new.
    const again = await generate(executor, REQUESTS.slice(0, 20), { ...OPTIONS, batchSize: 4 });
    expect(again).toEqual(alone.results.slice(0, 20));
  });
});
