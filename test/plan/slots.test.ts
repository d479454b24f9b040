// Slots for experts: as many as fit and no byte beyond the budget, only where they help, and a refusal that says how many there may be.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { OperatingError, present } from '../../offload/errors.js';
import type { ModelSpec } from '../../offload/model/model.js';
import type { PlanOptions, Workload } from '../../offload/plan/input.js';
import { makePlan } from '../../offload/plan/make-plan.js';
import type { Plan } from '../../offload/plan/plan.js';
import { Executor } from '../../offload/run/executor.js';
import { Trace } from '../../offload/trace.js';
import { GiB } from '../../offload/units.js';
import { shapeModel } from '../../src/engine/shape.js';
import { dramBytes, optionsFor, PLENTY } from '../helpers/plan-options.js';
import { drawMixture } from '../simulation/toy-mixture.js';
import { makeToyModel, type ToyModel } from '../simulation/toy-model.js';
import { Random } from '../simulator/random.js';
import { SimulatedBackend } from '../simulator/simulated.js';

const apart = (more: Partial<PlanOptions> = {}) =>
  optionsFor('dram', { computesInPlace: false, deviceBudgetName: '--gpu_memory', ...more });
const gpuBytes = (plan: Plan) =>
  plan.terms.reduce((sum, { tier, bytes }) => sum + (tier === 'gpu' ? bytes : 0), 0);

function refusal(make: () => unknown): OperatingError {
  try {
    make();
  } catch (error) {
    if (error instanceof OperatingError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

/** A dense block, then four of six experts each. */
function toyOf(seed: number): ToyModel {
  const alike = { ...drawMixture(new Random(seed)), unlike: false, seed: 4 };
  const keys = (name: string) => Array.from({ length: 6 }, (_, e) => `experts.${e}.${name}`);
  const mixture = { ...alike, experts: 6, chosen: 2, ups: keys('up'), downs: keys('down') };
  return makeToyModel(new Random(seed), 5, { mixtureOf: (index) => (index > 0 ? mixture : undefined) });
}

const WORKLOAD: Workload = { sequences: 1, contextTokens: 20, promptTokens: 4, output: 'tokens' };
const KEYS = 24;

describe('of a toy model', () => {
  const toy = toyOf(1);
  const plan = (more: Partial<PlanOptions>) => makePlan(toy.model, WORKLOAD, apart(more));
  const withAll = plan({ expertSlots: KEYS });

  it('are stated with all that is allocated for them', async () => {
    for (const [seed, deviceCount, expertSlots] of [
      [1, 1, 2],
      [2, 3, 11],
      [3, 2, KEYS],
    ] as const) {
      const { model, files, paths } = toyOf(seed);
      const made = makePlan(model, WORKLOAD, apart({ deviceCount, expertSlots }));
      expect(made.slots?.count).toBe(expertSlots);
      const backend = new SimulatedBackend({ seed, deviceCount, computesInPlace: false, files });
      const creating = Executor.create({ model, plan: made, backend, paths, trace: new Trace(false) });
      await backend.until(creating, 'creation');
      expect(backend.allocated.hostBytes).toBe(dramBytes(made));
      expect(backend.allocated.deviceBytes).toBe(gpuBytes(made) * deviceCount);
    }
  });

  it('leave tables of tokens in DRAM, where it holds them, so that steps begin in advance', () => {
    const made = plan({ expertSlots: 4 });
    const tables = made.terms.find(({ name }) => name === 'embedding tables');
    expect([made.tablesRest, tables?.tier]).toEqual(['dram', 'dram']);
    const within = (dramBudgetBytes: number) => plan({ expertSlots: 4, dramBudgetBytes });
    let [smallest, enough] = [0, dramBytes(made)];
    while (enough - smallest > 1) {
      const middle = Math.floor((smallest + enough) / 2);
      try {
        within(middle);
        enough = middle;
      } catch {
        smallest = middle;
      }
    }
    const withTables = enough + (tables?.bytes ?? 0);
    expect([withTables - 1, withTables].map((bytes) => within(bytes).tablesRest)).toEqual([
      undefined,
      'dram',
    ]);
    expect(plan({ expertSlots: 4, kvOffload: true }).tablesRest).toBeUndefined();
    const scored = makePlan(toy.model, { ...WORKLOAD, output: 'nll' }, apart({ expertSlots: 4 }));
    expect(scored.tablesRest).toBeUndefined();
  });

  it('are as many as fit: a budget is never exceeded, and has no room for one more', () => {
    const counts = new Set<number>();
    // One batch alone, so that no smaller one leaves more room.
    const fixed = { microBatchTokens: 4, kvOffload: true };
    for (let expertSlots = 2; expertSlots <= KEYS; expertSlots++) {
      for (const spare of [0, 1, 97]) {
        const deviceBudgetBytes = gpuBytes(plan({ expertSlots, ...fixed })) + spare;
        const exact = plan({ expertSlots, deviceBudgetBytes, ...fixed });
        expect(gpuBytes(exact)).toBeLessThanOrEqual(deviceBudgetBytes);
        counts.add(present(exact.slots, 'slots').count);
        if (expertSlots === KEYS) continue;
        const { code, message } = refusal(() =>
          plan({ expertSlots: expertSlots + 1, deviceBudgetBytes, ...fixed }),
        );
        expect(code).toBe('DOES_NOT_FIT');
        expect(message).toMatch(/^--gpu_memory is .* has room for (\d+) expert slots of /);
        expect(message).toContain(`room for ${expertSlots} expert slots of`);
        expect(message).toContain(
          `but --expert_slots is ${expertSlots + 1}; give --expert_slots ${expertSlots} or fewer`,
        );
      }
    }
    expect(counts.size).toBe(KEYS - 1);
  });

  it('are one for each expert at most', () => {
    expect(plan({ expertSlots: 1000 }).slots).toEqual(withAll.slots);
  });

  it('are refused with the numbers of DRAM where that does not hold all layers', () => {
    for (const offload of ['dram', 'auto'] as const) {
      const options = { ...apart({ expertSlots: 8 }), offload };
      const needed = dramBytes(makePlan(toy.model, WORKLOAD, options));
      const make = (dramBudgetBytes: number) =>
        makePlan(toy.model, WORKLOAD, { ...options, hostWindowLayers: 1, dramBudgetBytes });
      const least = dramBytes(make(PLENTY));
      expect(least).toBeLessThanOrEqual(needed);
      expect(dramBytes(make(least))).toBeLessThanOrEqual(least);
      const { message } = refusal(() => make(1000));
      expect(message).toMatch(
        /^--dram_memory is 1000 B, but the smallest plan needs .* weights .*leave --expert_slots out/,
      );
    }
  });

  it.each([
    ['all in DRAM, where the CPU computes', {}, { computesInPlace: true }, 'the CPU computes on DRAM'],
    ['layers asked for as well', {}, { deviceResident: { layers: 2 } }, '--gpu_resident'],
    [
      'fewer than a token goes to',
      { expertSlots: 1 },
      {},
      'a token goes to 2 experts of a layer: give 2 or more',
    ],
  ] as const)('are refused with %s', (_, some, others, why) => {
    const { code, message } = refusal(() => plan({ expertSlots: 8, ...some, ...others }));
    expect(code).toBe('BAD_OPTION');
    expect(message).toContain(why);
  });

  it('are none where a model is dense, and refused when asked for', () => {
    const { model } = makeToyModel(new Random(2), 3);
    const made = makePlan(model, WORKLOAD, apart({ deviceBudgetBytes: PLENTY }));
    expect(made.slots).toBeUndefined();
    const { message } = refusal(() => makePlan(model, WORKLOAD, apart({ expertSlots: 2 })));
    expect(message).toContain('no layer of this model has experts');
  });

  it('are none where nobody says how much a device holds, where none are wanted, and in place', () => {
    expect(plan({}).slots).toBeUndefined();
    expect(plan({ deviceBudgetBytes: gpuBytes(withAll), expertSlots: 0 }).slots).toBeUndefined();
    expect(plan({ computesInPlace: true }).slots).toBeUndefined();
  });
});

describe('in DRAM, of experts that rest on the drive', () => {
  const toy = toyOf(1);
  const fixed = { computesInPlace: true, microBatchTokens: 4, hostWindowLayers: 1, offload: 'auto' } as const;
  const plan = (more: Partial<PlanOptions>) => makePlan(toy.model, WORKLOAD, apart({ ...fixed, ...more }));

  it('are stated with all that is allocated for them', async () => {
    for (const [seed, expertSlots] of [
      [1, 2],
      [2, 11],
      [3, KEYS],
    ] as const) {
      const { model, files, paths } = toyOf(seed);
      const made = makePlan(model, WORKLOAD, apart({ ...fixed, expertSlots }));
      expect(made.slots?.count).toBe(expertSlots);
      expect(made.layers.map(({ tier }) => tier).slice(0, 3)).toEqual(['dram', 'nvme', 'nvme']);
      const backend = new SimulatedBackend({ seed, deviceCount: 1, computesInPlace: true, files });
      const creating = Executor.create({ model, plan: made, backend, paths, trace: new Trace(false) });
      await backend.until(creating, 'creation');
      expect(backend.allocated.hostBytes).toBe(dramBytes(made));
      expect(gpuBytes(made)).toBe(0);
    }
  });

  it('are as many as fit: a budget is never exceeded, and has no room for one more', () => {
    for (let expertSlots = 2; expertSlots < KEYS; expertSlots++) {
      const dramBudgetBytes = dramBytes(plan({ expertSlots })) + 97;
      expect(dramBytes(plan({ expertSlots, dramBudgetBytes }))).toBeLessThanOrEqual(dramBudgetBytes);
      const { code, message } = refusal(() => plan({ expertSlots: expertSlots + 1, dramBudgetBytes }));
      expect(code).toBe('DOES_NOT_FIT');
      expect(message).toContain(`has room for ${expertSlots} expert slots of`);
      expect(message).toContain(`give --expert_slots ${expertSlots} or fewer`);
    }
  });

  it('are none where the model fits, or none are wanted', () => {
    expect(plan({}).slots).toBeUndefined();
    expect(plan({ offload: 'nvme' }).slots).toBeUndefined();
    expect(plan({ offload: 'nvme', expertSlots: 0 }).slots).toBeUndefined();
  });
});

describe.each([
  ['gpt-oss-120b', 4608, [1, 64], [1024]],
  // 64 tokens that choose 8 of 128 experts each want nearly all of them.
  ['qwen3-30b-a3b', 6144, [1, 16, 64], [1024]],
] as const)('of %s', (name, keys, few, many) => {
  const path = fileURLToPath(new URL(`../../configs/models/${name}.json`, import.meta.url));
  let opened: ModelSpec | undefined;
  const open = () => shapeModel(JSON.parse(readFileSync(path, 'utf8')), path).model;
  const plan = (sequences: number, more: Partial<PlanOptions>) => {
    const prompts = { sequences, promptTokens: sequences * 256, contextTokens: 320 };
    const workload: Workload = { ...prompts, output: 'tokens', newTokens: 64 };
    opened ??= open();
    return makePlan(opened, workload, { ...apart({ cuda: true, ...more }), offload: 'auto' });
  };

  it.each([16, 24])('are there for few sequences with %i GiB, and whole layers pass by for many', (size) => {
    const deviceBudgetBytes = size * GiB;
    for (const sequences of few) {
      const { slots, ...made } = plan(sequences, { deviceBudgetBytes });
      const { count, bytes, ...others } = present(slots, 'slots');
      expect(others.keys).toBe(keys);
      const left = deviceBudgetBytes - gpuBytes(made);
      expect(left).toBeGreaterThanOrEqual(0);
      expect(left).toBeLessThan(bytes);
      expect(count).toBeGreaterThan(keys / 8);
      expect(made.layers.filter(({ experts }) => experts).every(({ tier }) => tier === 'dram')).toBe(true);
      expect(made.layers.filter(({ experts }) => !experts).every(({ tier }) => tier === 'gpu')).toBe(true);
    }
    for (const sequences of many) expect(plan(sequences, { deviceBudgetBytes }).slots).toBeUndefined();
  });

  it.each([12, 24])('are there for few sequences on a CPU with %i GiB', (size) => {
    const dramBudgetBytes = size * GiB;
    const onCpu = { computesInPlace: true, cuda: false, dramBudgetBytes };
    const { slots, ...made } = plan(1, onCpu);
    const { count, bytes } = present(slots, 'slots');
    expect(dramBytes({ ...made, slots })).toBeLessThanOrEqual(dramBudgetBytes);
    expect(dramBudgetBytes - dramBytes({ ...made, slots })).toBeLessThan(bytes);
    expect(count).toBeGreaterThan(keys / 16);
    expect(made.layers.filter(({ experts }) => experts).every(({ tier }) => tier === 'nvme')).toBe(true);
    expect(made.layers.filter(({ experts }) => !experts).every(({ tier }) => tier === 'dram')).toBe(true);
    expect(plan(1, { ...onCpu, expertSlots: 0 }).slots).toBeUndefined();
  });

  it('are none where everything fits', () => {
    const made = plan(1, { deviceBudgetBytes: 141 * GiB });
    expect(made.slots).toBeUndefined();
    expect(made.layers.every(({ tier }) => tier === 'gpu')).toBe(true);
  });
});
