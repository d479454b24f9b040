// Sizes that a plan chooses: rows that stay, types of activations, and passes of bounded size.

import { describe, expect, it } from 'vitest';
import { Random } from '../offload/backends/simulated-random.js';
import { elementCount } from '../offload/dtype.js';
import { present } from '../offload/errors.js';
import type { ModelSpec } from '../offload/model.js';
import { makePlan, type Plan, type Workload } from '../offload/plan.js';
import { rowSlotBytes } from '../offload/weight-source.js';
import { ALL_NVME, generateFixture } from './golden/run-model.js';
import { dramBytes, optionsFor } from './helpers/plan-options.js';
import { makeToyModel } from './simulation/toy-model.js';

describe('what a plan keeps', () => {
  const drawn = Array.from({ length: 20 }, (_, seed) => makeToyModel(new Random(seed), 4).model);
  // More rows than a cache has without need.
  const model = present(
    drawn.find(({ vocabSize }) => vocabSize > 80),
    'a model with many rows',
  );
  const workload: Workload = { sequences: 4, contextTokens: 30, promptTokens: 200, output: 'tokens' };
  const termBytes = (plan: Plan, term: string) => plan.terms.find(({ name }) => name === term)?.bytes ?? 0;

  it('rows of a whole pass where all layers rest in DRAM and the budget has room, else few', () => {
    const options = { microBatchTokens: 4 };
    const roomy = makePlan(model, workload, optionsFor('dram', options));
    const streamed = makePlan(model, workload, optionsFor('nvme', options));
    model.tables.forEach((table, index) => {
      const wanted = Math.min(table.rowCount, roomy.passTokens) * rowSlotBytes(table);
      expect(roomy.rowCacheBytes[index]).toBe(Math.max(wanted, streamed.rowCacheBytes[index] ?? 0));
    });
    expect(termBytes(roomy, 'embedding rows')).toBe(roomy.rowCacheBytes.reduce((a, b) => a + b, 0));
    const dramBudgetBytes = dramBytes(roomy) - 1;
    const tight = makePlan(model, workload, optionsFor('dram', { ...options, dramBudgetBytes }));
    expect(dramBytes(tight)).toBeLessThanOrEqual(dramBudgetBytes);
    expect(tight.rowCacheBytes[0]).toBeLessThan(roomy.rowCacheBytes[0] ?? 0);
  });

  it('activations and cache in the 16 bits of most weights, on GPUs', () => {
    const blocks = model.blocks.map((block) => ({
      ...block,
      weights: block.weights.map((weight) => ({
        ...weight,
        dtype: 'f16' as const,
        extent: { ...weight.extent, sizeBytes: 2 * elementCount(weight.shape) },
      })),
    }));
    const half: ModelSpec = { ...model, blocks };
    const options = optionsFor('dram', { computesInPlace: false, microBatchTokens: 4 });
    const floats = makePlan(half, workload, options);
    const halves = makePlan(half, workload, { ...options, cuda: true });
    expect([floats.activationType, halves.activationType]).toEqual(['f32', 'f16']);
    expect(termBytes(halves, 'key-value cache')).toBe(termBytes(floats, 'key-value cache') / 2);
    expect(termBytes(halves, 'hidden states')).toBe(termBytes(floats, 'hidden states'));
    expect(halves.workspaceBytes).toBeLessThan(floats.workspaceBytes);
  });
});

describe('prompts of any length', () => {
  const { model } = makeToyModel(new Random(3), 2);
  const planFor = (promptTokens: number) =>
    makePlan(
      model,
      { sequences: 2, contextTokens: 40, promptTokens, output: 'tokens' },
      optionsFor('nvme', { microBatchTokens: 4 }),
    );
  const hiddenTerm = (plan: Plan) =>
    present(
      plan.terms.find(({ name }) => name === 'hidden states'),
      'term',
    );

  it('take passes of bounded size, and the plan says why', () => {
    expect(planFor(200).passTokens).toBe(200);
    expect(hiddenTerm(planFor(200)).reason).not.toContain('several passes');
    for (const promptTokens of [257, 10_000, 1_000_000]) {
      const plan = planFor(promptTokens);
      expect(plan.passTokens).toBe(64 * 4);
      expect(hiddenTerm(plan).bytes).toBe(hiddenTerm(planFor(256)).bytes);
      expect(hiddenTerm(plan).reason).toContain('longer prompts several passes');
    }
  });

  it('yield the same tokens in many passes as in one', async () => {
    const prompts = [Array.from({ length: 180 }, (_, index) => 3 + ((index * 37) % 90)), [5, 6, 7]];
    const whole = await generateFixture('llama', prompts, 5, ALL_NVME);
    const chunked = { ...ALL_NVME, plan: { microBatchTokens: 2 } };
    expect(await generateFixture('llama', prompts, 5, chunked)).toEqual(whole);
  });
});
