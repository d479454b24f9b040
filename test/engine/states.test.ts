// Models whose blocks keep a state per sequence: slots change hands, sequences leave and come back, and each text is what it is alone.

import { describe, expect, it } from 'vitest';
import { GiB, type PlanOptions, present, type Workload } from '../../offload/index.js';
import { stateBytes } from '../../offload/model/state-cache.js';
import { makePlan } from '../../offload/plan/make-plan.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { findAutoBatch, planOnce } from '../../src/engine/largest-batch.js';
import { type OpenedModel, openModel } from '../../src/engine/open-model.js';
import type { GenerationRequest } from '../../src/engine/request.js';
import { modelFolder } from '../helpers/fixtures.js';
import { optionsFor } from '../helpers/plan-options.js';
import { randomFrom, randomInt } from '../helpers/random.js';

const CONTEXT = 96;
const opened = await openModel(modelFolder('qwen3_5_text'));
/** What it keeps instead of pages grows with the text. */
const withoutPages = await openModel(modelFolder('deepseek_v4'));
const MODELS = [
  ['pages in some blocks', opened],
  ['no pages at all', withoutPages],
] as const;
const vocabSize = Math.min(...MODELS.map(([, { model }]) => model.vocabSize));

interface Setting {
  readonly model?: OpenedModel;
  readonly devices?: number;
  readonly workload?: Partial<Workload>;
  readonly plan?: Partial<PlanOptions>;
}

async function withEngine<T>(setting: Setting, use: (engine: Engine) => Promise<T>): Promise<T> {
  const { model = opened, devices = 0, workload, plan } = setting;
  const engine = await Engine.open(model, {
    offload: 'nvme',
    dramBudgetBytes: GiB,
    cpu: { virtualDevices: devices, threads: 1 },
    ...(plan ? { plan } : {}),
    workload: { sequences: 4, contextTokens: CONTEXT, promptTokens: 200, output: 'tokens', ...workload },
  });
  try {
    return await use(engine);
  } finally {
    await engine.close();
  }
}

/** Prompts that begin alike, and differ in length. */
function requests(count: number, maxNewTokens = 12): GenerationRequest[] {
  const random = randomFrom(5);
  const tokens = (length: number) => Array.from({ length }, () => randomInt(random, vocabSize));
  const beginning = tokens(40);
  return Array.from({ length: count }, (_, index) => {
    const promptTokens = Int32Array.of(...beginning.slice(0, 10 + 5 * index), ...tokens(1 + index));
    return { index, promptTokens, maxNewTokens };
  });
}

async function texts(setting: Setting, wanted: readonly GenerationRequest[], batchSize = 4) {
  return withEngine(setting, async ({ executor }) => {
    let fed = 0;
    const results = await generate(executor, wanted, {
      batchSize,
      maxNewTokens: 12,
      stopTokens: new Set(),
      onPass: ({ tokens }) => {
        fed += tokens;
      },
    });
    return { tokens: results.map((result) => [...result.tokens]), fed };
  });
}

const WANTED = requests(6);
describe.each(MODELS)('a model with %s', async (_, model) => {
  const alone = await texts({ model, workload: { sequences: 1 } }, WANTED, 1);
  describe('texts are those of each prompt alone', () => {
    it.each<readonly [string, Setting]>([
      ['in one batch, which the last ones join later', {}],
      ['with passes that cut prompts', { plan: { microBatchTokens: 3, passTokens: 9 } }],
      ['on several devices', { devices: 2 }],
      ['with keys and values in DRAM', { devices: 1, plan: { kvOffload: true, microBatchSequences: 2 } }],
    ])('%s', async (_, setting) => {
      expect((await texts({ ...setting, model }, WANTED)).tokens).toEqual(alone.tokens);
    });

    it('where sequences leave for want of pages, and are computed again', async () => {
      const growing = WANTED.map(({ index, promptTokens }) => ({
        index,
        promptTokens: promptTokens.subarray(0, 4 + index),
        maxNewTokens: 40,
      }));
      const undisturbed = await texts({ model, workload: { sequences: 1 } }, growing, 1);
      const { tokens, fed } = await texts({ model, workload: { cachedTokens: CONTEXT } }, growing);
      expect(tokens).toEqual(undisturbed.tokens);
      expect(fed).toBeGreaterThan(undisturbed.fed);
    });
  });

  it('beginnings that prompts share are computed for each', async () => {
    const [request] = WANTED;
    const same = Array.from({ length: 3 }, (_, index) => ({ ...present(request, 'request'), index }));
    const { tokens, fed } = await texts({ model }, same);
    expect(new Set(tokens.map((text) => text.join()))).toEqual(new Set([alone.tokens[0]?.join()]));
    expect(fed).toBe(3 * (present(request, 'request').promptTokens.length + 11));
  });

  it('a conversation goes on as if all of it came at once', async () => {
    await withEngine({ model }, async (engine) => {
      const say = async (promptTokens: readonly number[]) => {
        const request = { index: 0, promptTokens: Int32Array.from(promptTokens), maxNewTokens: 6 };
        return (await engine.submit(request).result).tokens;
      };
      const first = [...present(WANTED[2], 'request').promptTokens];
      const answer = await say(first);
      const history = [...first, ...answer, 7, 8, 9];
      const [next, anew] = [
        await say(history),
        await texts({ model }, [{ index: 0, promptTokens: Int32Array.from(history) }]),
      ];
      expect(next).toEqual(anew.tokens[0]?.slice(0, 6));
    });
  });
});

describe('plans', () => {
  const workload = { sequences: 8, contextTokens: 64, promptTokens: 64, output: 'tokens' } as const;
  const statesOf = (changes: Partial<Workload>, options: Partial<PlanOptions> = {}) =>
    makePlan(opened.model, { ...workload, ...changes }, optionsFor('nvme', options)).terms.find(
      ({ name }) => name === 'recurrent states',
    );

  it('count a state for each sequence, however long it is', () => {
    const { bytes, tier } = present(statesOf({}), 'term');
    expect(bytes).toBe(8 * stateBytes(opened.model.caches, 500));
    expect(tier).toBe('dram');
    expect(statesOf({ contextTokens: 250 })?.bytes).toBe(bytes);
    expect(statesOf({ sequences: 2 })?.bytes).toBe(bytes / 4);
    expect(statesOf({}, { computesInPlace: false, kvOffload: true })?.tier).toBe('gpu');
  });

  it('have none where no block keeps one', async () => {
    const { model } = await openModel(modelFolder('llama'));
    const { terms } = makePlan(model, workload, optionsFor('nvme'));
    expect(terms.some(({ name }) => name === 'recurrent states')).toBe(false);
  });

  it('end a batch of any size where states are too many', () => {
    const plan = (sequences: number, dramBudgetBytes: number) =>
      makePlan(opened.model, { ...workload, sequences }, optionsFor('nvme', { dramBudgetBytes }));
    const largest = (budget: number) =>
      findAutoBatch(planOnce((sequences) => plan(sequences, budget))).sequences;
    const [few, more] = [largest(2 ** 23), largest(2 ** 24)];
    expect(few).toBeGreaterThan(1);
    expect((more - few) * stateBytes(opened.model.caches, 500)).toBeLessThan(2 ** 23);
    expect(more).toBeGreaterThan(few);
  });
});
