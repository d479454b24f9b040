// Texts whose cached keys depend on their length: made to make room, shared and taken in again, they are the same bit for bit.

import { describe, expect, it } from 'vitest';
import { GiB, present } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { Scheduler } from '../../src/engine/scheduler.js';
import { modelFolder } from '../helpers/fixtures.js';
import { randomFrom, randomInt } from '../helpers/random.js';

const CONTEXT = 96;

describe.each(['llama-dynamic-rope-beyond', 'phi3-longrope-beyond'])('%s', (name) => {
  it.each([
    { pageTokens: 4, kvOffload: true, microBatchTokens: 9, promptTokens: 24, virtualDevices: 1 },
    { pageTokens: 8, microBatchTokens: 40, promptTokens: 400, virtualDevices: 2 },
  ])('where pages are few: $pageTokens tokens each', async ({ promptTokens, virtualDevices, ...plan }) => {
    const opened = await openModel(modelFolder(name));
    const rules = opened.model;
    expect(rules.lengthDependentAfterTokens).toBe(64);
    const random = randomFrom(3);
    const tokens = (count: number) => Array.from({ length: count }, () => randomInt(random, rules.vocabSize));
    const beginning = tokens(40);
    const requests = Array.from({ length: 10 }, (_, index) => {
      const shared = beginning.slice(0, present([0, 16, 32, 40][index % 4], 'length'));
      const prompt = Int32Array.from([...shared, ...tokens(1 + (index % 5))]);
      return { index, promptTokens: prompt, maxNewTokens: CONTEXT - prompt.length - index, logProbs: true };
    });
    const workload = { contextTokens: CONTEXT, output: 'tokens', history: true } as const;
    const common = { offload: 'dram', dramBudgetBytes: GiB } as const;
    const single = await Engine.open(opened, {
      ...common,
      workload: { ...workload, sequences: 1, promptTokens: CONTEXT },
    });
    const options = { batchSize: 1, maxNewTokens: 1, stopTokens: new Set<number>(), sharesPages: false };
    const expected = await generate(single.executor, requests, options);
    await single.close();
    const engine = await Engine.open(opened, {
      ...common,
      cpu: { virtualDevices, threads: 1 },
      plan,
      workload: { ...workload, sequences: 5, promptTokens, cachedTokens: CONTEXT + plan.pageTokens },
    });
    let fed = 0;
    const scheduler = new Scheduler(engine.executor, {
      sharesPages: plan.kvOffload === true,
      onPass: (pass) => {
        fed += pass.tokens;
      },
    });
    const results = await Promise.all(requests.map((request) => scheduler.submit(request).result));
    expect(results).toEqual(expected);
    await scheduler.whenIdle();
    // Some were taken in again.
    if (!plan.kvOffload) expect(fed).toBeGreaterThan(requests.length * CONTEXT);
    await scheduler.close();
    await engine.close();
  });
});
