// A sequence that outgrows the trained length of LongRoPE goes on as if it had been that long from its start.

import { expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { ALL_DRAM, ALL_NVME, generateFixture, type Placement, readGolden } from './run-model.js';

const NAME = 'phi3-longrope-beyond';
/** The checkpoint's trained length. */
const TRAINED = 64;
const NEW_TOKENS = 40;

const { input_ids: prompts } = readGolden(NAME);

it('goes on as a prompt of its length would', async () => {
  const prompt = present(prompts[1], 'prompt');
  const within = TRAINED + 1 - prompt.length;
  const [whole] = await generateFixture(NAME, [prompt], NEW_TOKENS, ALL_NVME);
  const tokens = present(whole, 'result').tokens;
  const outgrown = [...prompt, ...tokens.slice(0, within)];
  const [rest] = await generateFixture(NAME, [outgrown], NEW_TOKENS - within, ALL_NVME);
  expect(tokens.slice(within)).toEqual(present(rest, 'result').tokens);
});

const PLACEMENTS: readonly (readonly [string, Placement])[] = [
  ['small micro-batches', { ...ALL_NVME, plan: { microBatchTokens: 7 } }],
  ['one sequence a micro-batch', { ...ALL_NVME, plan: { microBatchSequences: 1 } }],
  ['several devices', { ...ALL_NVME, cpu: { virtualDevices: 2 } }],
];

it.each(PLACEMENTS)('gives the same tokens with %s', async (_, placement) => {
  // All four in one batch: those that outgrow it do so at different steps, beside others that do not.
  const expected = await generateFixture(NAME, prompts, NEW_TOKENS, ALL_DRAM, 1);
  expect(await generateFixture(NAME, prompts, NEW_TOKENS, placement)).toEqual(expected);
});
