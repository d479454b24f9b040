// The fixtures' logits, tokens and likelihoods, from transformers, must come out of the engine.

import { existsSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { forcedSteps, wrongSteps } from './forced.js';
import {
  ALL_DRAM,
  ALL_NVME,
  certainSteps,
  fixtureFolder,
  generateFixture,
  lastLogits,
  readGolden,
  scoreFixture,
} from './run-model.js';

/** Every folder with golden results. */
const FIXTURES = readdirSync(fixtureFolder('.')).filter((name) =>
  existsSync(`${fixtureFolder(name)}/golden.json`),
);

/** As a share of the largest logit: what sums in another order come to. */
const TOLERANCE = 1e-4;

describe.each(FIXTURES)('%s', (name) => {
  const golden = readGolden(name);

  it('last logits lie within 1e-4 relative', async () => {
    const rows = await lastLogits(name, golden.input_ids, ALL_NVME);
    golden.last_logits.forEach((expected, index) => {
      expect(relativeError(present(rows[index], 'row'), expected)).toBeLessThan(TOLERANCE);
    });
  });

  it('nll lies within 1e-4 relative', async () => {
    const { nll, tokens } = await scoreFixture(name, golden.nll_ids, golden.nll_ids.length, ALL_NVME);
    expect(tokens).toBe(golden.nll_ids.length - 1);
    expect(Math.abs(nll - golden.nll) / golden.nll).toBeLessThan(TOLERANCE);
  });

  it('every step has the margin of the reference, given its tokens', async () => {
    const { input_ids: prompts, greedy } = golden;
    const steps = await forcedSteps(name, golden, ALL_NVME, prompts.length);
    expect(steps.length).toBe(greedy.flat().length);
    expect(wrongSteps(steps, golden, TOLERANCE)).toEqual([]);
  });

  it('greedy tokens are equal, each prompt alone and all in one batch', async () => {
    const steps = golden.greedy[0]?.length ?? 0;
    const alone = await generateFixture(name, golden.input_ids, steps, ALL_NVME, 1);
    const batched = await generateFixture(name, golden.input_ids, steps, ALL_DRAM);
    golden.greedy.forEach((expected, index) => {
      const certain = certainSteps(golden.greedy_margins?.[index], steps);
      expect(alone[index]?.tokens.slice(0, certain)).toEqual(expected.slice(0, certain));
      // Nothing is padded, so what else is in the batch changes nothing at all.
      expect(batched[index]?.tokens).toEqual(alone[index]?.tokens);
      const inBatch = golden.batch_greedy?.[index];
      if (inBatch) expect(batched[index]?.tokens.slice(0, certain)).toEqual(inBatch.slice(0, certain));
    });
  });
});

/** Largest difference over the largest magnitude. */
function relativeError(actual: Float32Array, expected: readonly number[]): number {
  expect(actual.length).toBe(expected.length);
  let difference = 0;
  let magnitude = 0;
  expected.forEach((value, index) => {
    difference = Math.max(difference, Math.abs(value - present(actual[index], 'logit')));
    magnitude = Math.max(magnitude, Math.abs(value));
  });
  return difference / magnitude;
}
