// Sizes that a plan chooses: rows that stay, types of activations, and passes of bounded size.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { layerOf, type TensorSpec, vectorsOf } from '../../offload/model/layout.js';
import type { ModelSpec } from '../../offload/model/model.js';
import { rowSlotBytes } from '../../offload/model/table-rows.js';
import type { Workload } from '../../offload/plan/input.js';
import { makePlan } from '../../offload/plan/make-plan.js';
import type { Plan } from '../../offload/plan/plan.js';
import { DTYPE_BYTES, elementCount } from '../../offload/port/dtype.js';
import { formatOf } from '../../offload/port/formats.js';
import { MiB } from '../../offload/units.js';
import { ALL_NVME, generateFixture } from '../golden/run-model.js';
import { dramBytes, optionsFor } from '../helpers/plan-options.js';
import { makeToyModel } from '../simulation/toy-model.js';
import { Random } from '../simulator/random.js';

describe('what a plan keeps', () => {
  const drawn = Array.from({ length: 20 }, (_, seed) => makeToyModel(new Random(seed), 4).model);
  // More rows than a cache has without need.
  const model = present(
    drawn.find(({ vocabSize, tables }) => vocabSize > 80 && tables.length === 2),
    'a model with many rows',
  );
  const workload: Workload = { sequences: 4, contextTokens: 30, promptTokens: 200, output: 'tokens' };
  const termBytes = (plan: Plan, term: string) => plan.terms.find(({ name }) => name === term)?.bytes ?? 0;

  const withRows = (rowCount: number, columns: number): ModelSpec => ({
    ...model,
    tables: model.tables.map((table) => {
      const sizeBytes = rowCount * columns * DTYPE_BYTES[table.dtype];
      return { ...table, rowCount, columns, extent: { ...table.extent, sizeBytes } };
    }),
  });
  const slotsOf = (plan: Plan, { tables }: ModelSpec) =>
    tables.map((table, index) => (plan.rowCacheBytes[index] ?? 0) / rowSlotBytes(table));

  it('rows of a whole pass and some more where all layers rest in DRAM and the budget has room, else few', () => {
    const large = withRows(10_000, 8);
    const options = { microBatchTokens: 4 };
    const roomy = makePlan(large, workload, optionsFor('dram', options));
    expect(slotsOf(makePlan(large, workload, optionsFor('nvme', options)), large)).toEqual(
      large.tables.map(() => 64),
    );
    expect(slotsOf(roomy, large)).toEqual(large.tables.map(() => 2048));
    const wide = makePlan(large, { ...workload, contextTokens: 3000 }, optionsFor('dram', options));
    expect(slotsOf(wide, large)).toEqual(
      large.tables.map(({ rowsFrom, rowOffset }) => (rowsFrom === 'token' ? 2048 : 3000 + rowOffset)),
    );
    const term = present(
      roomy.terms.find(({ name }) => name === 'embedding rows'),
      'term',
    );
    expect(term.bytes).toBe(roomy.rowCacheBytes.reduce((a, b) => a + b, 0));
    expect(term.reason).toMatch(/^2048 .*recently used rows/);
    // Those of a pass are worth all that is left, others a little of it.
    const extra = term.bytes - large.tables.reduce((sum, table) => sum + 200 * rowSlotBytes(table), 0);
    const dramBudgetBytes = dramBytes(roomy) - extra + 100 * 1024;
    const tight = makePlan(large, workload, optionsFor('dram', { ...options, dramBudgetBytes }));
    expect(dramBytes(tight)).toBeLessThanOrEqual(dramBudgetBytes);
    for (const slots of slotsOf(tight, large)) expect(slots).toBe(200);
    const tighter = { ...options, dramBudgetBytes: dramBudgetBytes - 200 * 1024 };
    expect(slotsOf(makePlan(large, workload, optionsFor('dram', tighter)), large).at(-1)).toBeLessThan(200);
  });

  it('of large rows no more than locks in milliseconds', () => {
    const large = withRows(10_000, 100_000);
    const plan = makePlan(large, workload, optionsFor('dram', { microBatchTokens: 4 }));
    const ofPass = large.tables.reduce((sum, table) => sum + 200 * rowSlotBytes(table), 0);
    const more = termBytes(plan, 'embedding rows') - ofPass;
    expect(more).toBeGreaterThan(60 * MiB);
    expect(more).toBeLessThanOrEqual(64 * MiB);
  });

  it('activations and cache in the 16 bits of most weights, on GPUs', () => {
    const halved = (stored: TensorSpec): TensorSpec => ({
      ...stored,
      dtype: 'f16',
      extent: { ...stored.extent, sizeBytes: 2 * elementCount(stored.shape) },
    });
    const blocks = model.blocks.map((block) =>
      layerOf(block.name, [
        ...vectorsOf(block).map(halved),
        ...block.matrices.map((matrix) => ({
          ...matrix,
          format: formatOf('dense', 'f16'),
          firstRow: 0,
          parts: { codes: halved({ ...present(matrix.parts.codes, 'values'), shape: matrix.shape }) },
        })),
      ]),
    );
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
