// Devices that have consecutive layers each must give bit for bit what one device does, however many they are.

import { describe, expect, it } from 'vitest';
import type { PlanOptions } from '../../offload/index.js';
import {
  ALL_NVME,
  generateFixture,
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
