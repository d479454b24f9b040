// Rows that the host multiplies: only where a link binds and cores are free, stated with all that they take, and counted in times.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { CUTS } from '../../offload/model/cut-layer.js';
import { cuttableOfBlock } from '../../offload/model/cuttable.js';
import type { PlanOptions, Workload } from '../../offload/plan/input.js';
import { makePlan } from '../../offload/plan/make-plan.js';
import type { HardwareProfile } from '../../offload/plan/profile.js';
import { parseProfile } from '../../offload/plan/profile-file.js';
import { predictPass } from '../../offload/predict/predict.js';
import { Executor } from '../../offload/run/executor.js';
import { Trace } from '../../offload/trace.js';
import { shapeModel } from '../../src/engine/shape.js';
import { dramBytes, optionsFor } from '../helpers/plan-options.js';
import { makeToyModel } from '../simulation/toy-model.js';
import { Random } from '../simulator/random.js';
import { SimulatedBackend } from '../simulator/simulated.js';

const read = (path: string) => readFileSync(new URL(`../../configs/${path}`, import.meta.url), 'utf8');
const shape = (name: string, blocks: Record<string, number> = {}) =>
  shapeModel({ ...JSON.parse(read(`models/${name}.json`)), ...blocks }, name).model;

const MODEL = shape('opt-30b', { num_hidden_layers: 12 });
const ONE: Workload = { sequences: 1, contextTokens: 40, promptTokens: 32, output: 'tokens' };
const GPU = { computesInPlace: false, cuda: true, hostThreads: 16 } as const;
const planWith = (more: Partial<PlanOptions>, workload = ONE) =>
  makePlan(MODEL, workload, optionsFor('dram', { ...GPU, ...more }));

describe('where', () => {
  it('one GPU streams layers from DRAM and cores are free', () => {
    expect(planWith({}).rows).toMatchObject({ share: 12, mostTokens: 8, isFixed: false });
    expect(planWith({ hostThreads: 8 }).rows?.share).toBe(19);
    expect(planWith({ cpuCompute: 'only', hostThreads: 2 }).rows).toMatchObject({ share: 0, isFixed: true });
  });

  it.each([
    ['it is switched off', { cpuCompute: 'off' }],
    ['no core is free', { hostThreads: 3 }],
    ['several links work together', { deviceCount: 2 }],
    ['all layers rest on the device', { offload: 'auto', deviceBudgetBytes: 2 ** 38 }],
    ['the drive binds', { offload: 'nvme' }],
    ['the device computes in place', { computesInPlace: true, cuda: false }],
  ] as const)('not where %s', (_, more) => {
    const plan = planWith(more);
    expect(plan.rows).toBeUndefined();
    expect(plan.layers.every(({ cuttable }) => cuttable === undefined)).toBe(true);
    expect(plan.terms.map(({ name }) => name)).not.toContain('host rows');
  });
});

it('large matrices are cut that nothing but products reads, whatever the family', () => {
  expect(planWith({}).layers[0]?.cuttable).toHaveLength(6);
  const keys = (name: string) =>
    cuttableOfBlock(shape(name, { num_hidden_layers: 1 }), 0).map((key) => key.split('.').slice(-2)[0]);
  expect(keys('llama-2-7b')).toEqual(
    expect.arrayContaining(['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']),
  );
  // Taken apart by heads, and by rows of key heads.
  expect(keys('deepseek-v3')).not.toContain('kv_b_proj');
  expect(keys('falcon-40b')).not.toContain('query_key_value');
});

it('all that is allocated is stated', async () => {
  for (const seed of [1, 2, 3]) {
    const { model, files, paths } = makeToyModel(new Random(seed), 4, {});
    const plan = makePlan(
      model,
      { ...ONE, contextTokens: 20, promptTokens: 4 },
      optionsFor('dram', { computesInPlace: false, hostRowShare: 9 }),
    );
    expect(plan.rows).toBeDefined();
    const backend = new SimulatedBackend({ seed, deviceCount: 1, computesInPlace: false, files });
    const creating = Executor.create({ model, plan, backend, paths, trace: new Trace(false) });
    await backend.until(creating, 'creation');
    expect(backend.allocated.hostBytes).toBe(dramBytes(plan));
    const onDevice = plan.terms.reduce((sum, { tier, bytes }) => sum + (tier === 'gpu' ? bytes : 0), 0);
    expect(backend.allocated.deviceBytes).toBe(onDevice);
  }
});

describe('times', () => {
  const parsed = parseProfile(JSON.parse(read('machines/h100-x1.json')), 'h100-x1.json');
  const machine = (hostBytesPerSecond?: number): HardwareProfile => {
    const { hostBytesPerSecond: _, ...devices } = parsed.devices;
    return { ...parsed, devices: hostBytesPerSecond ? { ...devices, hostBytesPerSecond } : devices };
  };
  const step = (more: Partial<PlanOptions>, profile: HardwareProfile, sequences = 1) => {
    const plan = planWith(more, { ...ONE, sequences, promptTokens: 32 * sequences });
    const slices = Array.from({ length: sequences }, () => ({ tokens: 1, startPosition: 33 }));
    return present(predictPass(MODEL, plan, profile, [{ slices, outputs: sequences }]), 'a prediction');
  };

  it('are those of link and host together, for few tokens', () => {
    const whole = step({ cpuCompute: 'off' }, machine());
    for (const profile of [machine(), machine(88e9)]) {
      const together = step({}, profile);
      expect(whole.totalMs / together.totalMs).toBeGreaterThan(2.2);
      expect(whole.totalMs / together.totalMs).toBeLessThan(2.7);
    }
    // As the run will correct the share.
    expect(step({}, machine(20e9)).totalMs).toBeLessThan(0.8 * whole.totalMs);
    expect(step({}, machine(20e9)).totalMs).toBeGreaterThan(0.65 * whole.totalMs);
    expect(step({}, machine(), 9).totalMs).toBeGreaterThan(0.95 * whole.totalMs);
  });

  it('weigh plans', () => {
    const jobMs = (more: Partial<PlanOptions>) => planWith(more, { ...ONE, contextTokens: 160 }).jobMs;
    expect(jobMs({})).toBeLessThan(0.6 * jobMs({ cpuCompute: 'off' }));
    expect(jobMs({ cpuCompute: 'only' })).toBeLessThan(jobMs({ cpuCompute: 'off' }));
  });
});

it('a share is one of all rows', () => {
  expect(() => planWith({ hostRowShare: CUTS + 1 })).toThrow();
});
