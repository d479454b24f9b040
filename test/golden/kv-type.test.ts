// Keys and values in fewer bits: the error that they make is small, and the same wherever they rest and however texts are cut.

import { describe, expect, it } from 'vitest';
import type { KvDType } from '../../offload/index.js';
import {
  ALL_DRAM,
  ALL_NVME,
  generateFixture,
  type Placement,
  readGolden,
  scoreFixture,
} from './run-model.js';

/** How much the likelihood of a text may change, as a share of it. */
const MOST_LOST: Readonly<Record<'f16' | 'bf16' | 'e4m3' | 'i8' | 'u8', number>> = {
  f16: 5e-5,
  bf16: 2e-4,
  i8: 5e-4,
  e4m3: 3e-3,
  u8: 1e-2,
};
const TYPES = Object.keys(MOST_LOST) as (keyof typeof MOST_LOST)[];
const CODES = ['e4m3', 'i8', 'u8'] as const;

const virtual = (virtualDevices: number, plan: Placement['plan']): Placement => ({
  ...ALL_NVME,
  cpu: { virtualDevices },
  plan: { ...plan },
});

/** A device that computes in place and one with memory of its own, keys and values in either tier, cut in many ways. */
function placements(kvType: KvDType): [string, Placement][] {
  return [
    ['short micro-batches', { ...ALL_NVME, plan: { kvType, microBatchTokens: 5 } }],
    ['small pages', { ...ALL_NVME, plan: { kvType, pageTokens: 1, microBatchTokens: 7 } }],
    ['one thread', { ...ALL_DRAM, cpu: { threads: 1 }, plan: { kvType, pageTokens: 64 } }],
    ['on a device', virtual(1, { kvType })],
    ['in DRAM', virtual(1, { kvType, kvOffload: true })],
    ['in DRAM, of two devices', virtual(2, { kvType, kvOffload: true, microBatchTokens: 7, pageTokens: 4 })],
  ];
}

const scored = (name: string, kvType: KvDType, placement: Placement = ALL_DRAM) =>
  scoreFixture(name, readGolden(name).nll_ids, 64, { ...placement, plan: { ...placement.plan, kvType } });

it.each(['llama', 'bloom-6-heads', 'shakespeare-bloom'])('%s loses little, and something', async (name) => {
  const exact = await scored(name, 'f32');
  for (const kvType of TYPES) {
    const { nll } = await scored(name, kvType);
    expect(Math.abs(nll - exact.nll) / exact.nll, kvType).toBeLessThan(MOST_LOST[kvType]);
    expect(nll, kvType).not.toBe(exact.nll);
  }
});

describe.each(['llama', 'bloom-6-heads'].flatMap((name) => CODES.map((kvType) => [name, kvType] as const)))(
  '%s in %s',
  (name, kvType) => {
    const { input_ids: prompts } = readGolden(name);

    it('texts are the same wherever keys and values rest, and however prompts are cut', async () => {
      const expected = await generateFixture(name, prompts, 8, { ...ALL_DRAM, plan: { kvType } });
      for (const [what, placement] of placements(kvType)) {
        expect(await generateFixture(name, prompts, 8, placement), what).toEqual(expected);
      }
      const alone = await generateFixture(name, prompts, 8, virtual(1, { kvType, kvOffload: true }), 1);
      expect(alone).toEqual(expected);
    });

    it('a score is the same to the bit however its windows are cut', async () => {
      const expected = await scored(name, kvType);
      const cut = { ...ALL_NVME, plan: { microBatchTokens: 5, pageTokens: 8 } };
      expect(await scored(name, kvType, cut)).toEqual(expected);
      const streamed = virtual(1, { kvOffload: true, microBatchTokens: 9 });
      expect(await scored(name, kvType, streamed)).toEqual(expected);
    });
  },
);
