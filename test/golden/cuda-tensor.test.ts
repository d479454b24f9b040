// Two GPUs that compute every layer together give the reference's results, at rest, streamed and from the drive; and one that fails ends
// both. Skipped, and counted, with fewer GPUs.

import { describe, expect, it } from 'vitest';
import { GiB } from '../../offload/index.js';
import { HAS_TWO_GPUS } from '../native/cuda-device.js';
import { forcedSteps, wrongSteps } from './forced.js';
import { generateFixture, type Placement, readGolden, scoreFixture } from './run-model.js';

const TOGETHER: Placement = {
  device: 'cuda',
  offload: 'nvme',
  dramBudgetBytes: GiB,
  cuda: { devices: [0, 1] },
  sharedBy: 2,
};
/** Activations in f32 round next to nothing. */
const IN_FLOATS: Placement = { ...TOGETHER, plan: { activationType: 'f32' } };
const NEW_TOKENS = 8;

/** One of every way to cut heads, experts and formats. */
const KINDS = [
  'bloom',
  'bloom-6-heads',
  'deepseek_v3',
  'falcon-7b-style',
  'gemma3_text',
  'gpt2',
  'gpt_oss',
  'llama',
  'mixtral',
  'opt',
  'phi3',
  'q-ct-fp8-llama',
  'q-ct-int8-qwen3',
  'qwen3_moe',
];

describe.skipIf(!HAS_TWO_GPUS).each(KINDS)('%s on two GPUs together', (name) => {
  const golden = readGolden(name);
  const prompts = golden.input_ids;

  it('every step has the margin of the reference, given its tokens', async () => {
    const steps = await forcedSteps(name, golden, IN_FLOATS, prompts.length);
    expect(wrongSteps(steps, golden, 5e-3)).toEqual([]);
  });

  it('nll lies within 1e-3 relative', async () => {
    const { nll } = await scoreFixture(name, golden.nll_ids, golden.nll_ids.length, IN_FLOATS);
    expect(Math.abs(nll - golden.nll) / golden.nll).toBeLessThan(1e-3);
  });

  it('tokens are the same wherever layers rest, one sequence at a time', async () => {
    const expected = await generateFixture(name, prompts, NEW_TOKENS, TOGETHER, 1);
    for (const placement of [
      { ...TOGETHER, offload: 'dram' },
      { ...TOGETHER, plan: { deviceWindowLayers: 1 } },
      { ...TOGETHER, plan: { deviceResident: { layers: 2 } } },
      { ...TOGETHER, offload: 'auto', deviceBudgetBytes: GiB },
    ] satisfies Placement[]) {
      expect(await generateFixture(name, prompts, NEW_TOKENS, placement, 1)).toEqual(expected);
    }
  });
});
