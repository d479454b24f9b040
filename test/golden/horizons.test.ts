// Blocks that see only the latest tokens give their pages back: texts and likelihoods are those that they have with all pages.

import { describe, expect, it } from 'vitest';
import { openModel } from '../../src/engine/open-model.js';
import { planFor } from '../../src/engine/plan-for.js';
import {
  ALL_DRAM,
  ALL_NVME,
  fixtureFolder,
  generateFixture,
  type Placement,
  readGolden,
  scoreFixture,
} from './run-model.js';

const NEW_TOKENS = 24;

/** Pages are larger than windows. */
const WHOLE: Placement = { ...ALL_DRAM, plan: { pageTokens: 256 } };
const device = (plan: Placement['plan']): Placement => ({
  ...ALL_NVME,
  cpu: { virtualDevices: 1 },
  plan: { ...plan },
});
const PLACEMENTS: [string, Placement][] = [
  ['prompts longer than a window at once', { ...ALL_DRAM, plan: { pageTokens: 1, microBatchTokens: 48 } }],
  ['token by token', { ...ALL_DRAM, plan: { pageTokens: 2, microBatchTokens: 1 } }],
  ['on a device', device({ pageTokens: 4, microBatchTokens: 5 })],
  ['in DRAM', device({ pageTokens: 1, microBatchTokens: 7, kvOffload: true })],
  ['in DRAM, as codes', device({ pageTokens: 2, microBatchTokens: 3, kvOffload: true, kvType: 'i8' })],
];

describe.each(['gpt_oss', 'gemma4_text', 'llama4_text', 'mimo_v2_flash'])('%s', (name) => {
  const { input_ids: prompts, nll_ids: ids } = readGolden(name);
  const kept = async (placement: Placement) => {
    const { model } = await openModel(fixtureFolder(name));
    const lengths = prompts.map(({ length }) => length);
    const contextTokens = Math.max(...lengths) + NEW_TOKENS;
    const promptTokens = lengths.reduce((sum, length) => sum + length, 0);
    const workload = { sequences: prompts.length, contextTokens, promptTokens, output: 'tokens' } as const;
    return planFor(model, { ...placement, workload });
  };

  it('texts and likelihoods are the same, wherever keys and values rest', async () => {
    expect((await kept(WHOLE)).horizons).toEqual([]);
    const exact = await generateFixture(name, prompts, NEW_TOKENS, WHOLE);
    const { nll } = await scoreFixture(name, ids, ids.length, WHOLE);
    for (const [label, placement] of PLACEMENTS) {
      expect((await kept(placement)).horizons.length, label).toBeGreaterThan(0);
      const coded = placement.plan?.kvType;
      const plan = { ...WHOLE.plan, ...(coded ? { kvType: coded } : {}) };
      const wanted = coded ? await generateFixture(name, prompts, NEW_TOKENS, { ...WHOLE, plan }) : exact;
      const texts = await generateFixture(name, prompts, NEW_TOKENS, placement);
      expect(texts, label).toEqual(wanted);
      if (!coded) expect((await scoreFixture(name, ids, ids.length, placement)).nll, label).toBe(nll);
    }
  });
});
