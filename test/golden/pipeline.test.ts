// Devices that have consecutive layers each must give bit for bit what one device does, however many they are.

import { describe, expect, it } from 'vitest';
import { GiB, KiB, type PlanOptions } from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import { planFor } from '../../src/engine/plan-for.js';
import {
  ALL_NVME,
  fixtureFolder,
  generateFixture,
  generationWorkload,
  lastLogits,
  type Placement,
  readGolden,
  scoreFixture,
} from './run-model.js';

const NEW_TOKENS = 6;
const ONE: Placement = { ...ALL_NVME, cpu: { virtualDevices: 1 } };

function inStages(virtualDevices: number, plan: Partial<PlanOptions> = {}): Placement {
  return { ...ALL_NVME, cpu: { virtualDevices }, plan: { ...plan, pipeline: true } };
}

/** Plain blocks; pages of horizons; states; pages that other blocks read; experts. */
describe.each(['llama', 'gemma3_text', 'qwen3_next', 'shakespeare-bloom', 'mixtral'])('%s', (name) => {
  const { input_ids: ids, nll_ids } = readGolden(name);

  it.each([2, 3, 8])('logits of %i stages are those of one device', async (devices) => {
    const expected = await lastLogits(name, ids, ONE);
    expect(await lastLogits(name, ids, inStages(devices, { deviceResident: { layers: 100 } }))).toEqual(
      expected,
    );
  });

  it('tokens are the same, wherever layers and keys rest, and however batches are cut', async () => {
    const expected = await generateFixture(name, ids, NEW_TOKENS, ONE, 1);
    for (const plan of [
      { deviceResident: { layers: 100 } },
      { deviceWindowLayers: 1 },
      { deviceResident: { layers: 2 }, microBatchTokens: 3 },
      { kvOffload: true },
    ]) {
      expect(await generateFixture(name, ids, NEW_TOKENS, inStages(2, plan), 1)).toEqual(expected);
    }
  });

  it('likelihoods are the same', async () => {
    const [one, two] = await Promise.all(
      [ONE, inStages(2)].map((placement) => scoreFixture(name, nll_ids, 12, placement)),
    );
    expect(two).toEqual(one);
  });
});

describe('the plan of a pipeline', () => {
  const { input_ids: ids } = readGolden('shakespeare-bloom');
  const workload = generationWorkload(ids, NEW_TOKENS, 2);
  const planned = async (plan: Partial<PlanOptions>) => {
    const { model } = await openModel(fixtureFolder('shakespeare-bloom'));
    return planFor(model, {
      offload: 'auto',
      dramBudgetBytes: GiB,
      cpu: { virtualDevices: 2 },
      workload,
      plan,
    });
  };

  it('gives the device with less memory fewer layers, and no device more than it holds', async () => {
    const all = await planned({ pipeline: true, deviceResident: { layers: 100 } });
    const bytes = all.layers.map(({ layout }) => layout.device.sizeBytes);
    const weights = bytes.reduce((sum, one) => sum + one, 0);
    const beside = all.terms.reduce(
      (sum, { tier, name, bytes: some }) => sum + (tier === 'gpu' && name !== 'resident layers' ? some : 0),
      0,
    );
    const largest = Math.max(...bytes);
    const small = beside + 2 * largest;
    const plan = await planned({
      pipeline: true,
      deviceBudgetBytes: small,
      deviceBudgets: [small, beside + weights + 64 * KiB],
    });
    const [first, second] = plan.pipeline?.stages ?? [];
    expect(plan.layers.every(({ tier }) => tier === 'gpu')).toBe(true);
    expect(first && first.end - first.first).toBeLessThan(second ? second.end - second.first : 0);
    const own = bytes.slice(first?.first, first?.end).reduce((sum, one) => sum + one, 0);
    expect(own).toBeLessThanOrEqual(2 * largest);
  });

  it('cuts equal layers in the middle where memory is equal', async () => {
    const { pipeline, layers } = await planned({ pipeline: true, deviceBudgetBytes: GiB });
    const blocks = layers.filter(({ kind }) => kind === 'block').length;
    expect(Math.abs((pipeline?.stages[0]?.end ?? 0) - blocks / 2)).toBeLessThanOrEqual(2);
  });
});
