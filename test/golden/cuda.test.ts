// The fixtures' golden results on a GPU, and the same tokens for every placement; skipped, and counted, without a GPU.

import { existsSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { cudaStatus, GiB, present } from '../../offload/index.js';
import { forcedSteps, wrongSteps } from './forced.js';
import {
  certainSteps,
  fixtureFolder,
  generateFixture,
  lastLogits,
  type Placement,
  readGolden,
  scoreFixture,
} from './run-model.js';

const HAS_GPU = cudaStatus().problem === '';
const ON_GPU: Placement = { device: 'cuda', offload: 'nvme', dramBudgetBytes: GiB };
const FROM_DRAM: Placement = { ...ON_GPU, offload: 'dram' };
/** Below it, rounding to the weights' 16 bits may change which token is largest. */
const CERTAIN_MARGIN = 0.3;

/** Activations are rounded to the weights' 16 bits, but in mixtures of experts. */
const LOGIT_TOLERANCE = 0.02;
/** What transformers 5.17 itself is off by, in bf16 on a CPU, where rounding tells more than that. */
const OWN_ERRORS: Readonly<Record<string, number>> = {
  'gemma4_text-inputs-per-layer': 0.174,
  hy_v3: 0.199,
  qwen3_5_moe_text: 0.062,
  qwen3_5_text: 0.051,
};
const logitTolerance = (name: string) => Math.max(LOGIT_TOLERANCE, OWN_ERRORS[name] ?? 0);
const FIXTURES = readdirSync(fixtureFolder('.')).filter((name) =>
  existsSync(`${fixtureFolder(name)}/golden.json`),
);

describe.skipIf(!HAS_GPU).each(FIXTURES)('%s on a GPU', (name) => {
  const golden = readGolden(name);

  it('last logits lie within 2 % relative, or within what rounding costs the reference', async () => {
    const rows = await lastLogits(name, golden.input_ids, ON_GPU);
    golden.last_logits.forEach((expected, index) => {
      const actual = present(rows[index], 'row');
      const largest = Math.max(...expected.map(Math.abs));
      const difference = Math.max(
        ...expected.map((value, at) => Math.abs(value - (actual[at] ?? Number.NaN))),
      );
      expect(difference / largest).toBeLessThan(logitTolerance(name));
    });
  });

  it('nll lies within 1 % relative', async () => {
    const { nll, tokens } = await scoreFixture(name, golden.nll_ids, golden.nll_ids.length, ON_GPU);
    expect(tokens).toBe(golden.nll_ids.length - 1);
    expect(Math.abs(nll - golden.nll) / golden.nll).toBeLessThan(0.01);
  });

  it.each([1, golden.input_ids.length])(
    'every step has the margin of the reference, given its tokens, %i prompts at once',
    async (atOnce) => {
      const steps = await forcedSteps(name, golden, ON_GPU, atOnce);
      expect(steps.length).toBe(golden.greedy.flat().length);
      // Each of the two logits that a margin is the difference of may be off.
      expect(wrongSteps(steps, golden, 2 * logitTolerance(name))).toEqual([]);
    },
  );

  it('greedy tokens are equal up to the first uncertain one, alone and in one batch', async () => {
    const steps = golden.greedy[0]?.length ?? 0;
    const alone = await generateFixture(name, golden.input_ids, steps, ON_GPU, 1);
    const batched = await generateFixture(name, golden.input_ids, steps, FROM_DRAM);
    golden.greedy.forEach((expected, index) => {
      const certain = certainSteps(golden.greedy_margins?.[index], steps, CERTAIN_MARGIN);
      expect(alone[index]?.tokens.slice(0, certain)).toEqual(expected.slice(0, certain));
      expect(batched[index]?.tokens.slice(0, certain)).toEqual(expected.slice(0, certain));
    });
  });
});

const PLACED = FIXTURES.filter((name) => ['bloom-6-heads', 'llama', 'gpt2'].includes(name));

describe.skipIf(!HAS_GPU).each(PLACED)('%s: every placement', (name) => {
  const golden = readGolden(name);
  const windows = [1, 2, 3, 4, 5].flatMap((hostWindowLayers) =>
    [1, 2, 3].map(
      (deviceWindowLayers): Placement => ({
        ...ON_GPU,
        plan: { hostWindowLayers, deviceWindowLayers },
      }),
    ),
  );

  it('gives the same tokens and the same score', async () => {
    const tokens = await generateFixture(name, golden.input_ids, 8, FROM_DRAM);
    const score = await scoreFixture(name, golden.nll_ids, 64, FROM_DRAM);
    const resting = [1, 2, 3, 4, 5].flatMap((layers) =>
      [ON_GPU, FROM_DRAM].map(
        (placement): Placement => ({ ...placement, plan: { deviceResident: { layers } } }),
      ),
    );
    const decided: Placement = { ...ON_GPU, offload: 'auto' };
    const kvInDram = [{}, { microBatchSequences: 1 }, { deviceResident: { layers: 2 } }].map(
      (plan): Placement => ({ ...FROM_DRAM, plan: { ...plan, kvOffload: true } }),
    );
    for (const placement of [ON_GPU, ...windows, ...resting, ...kvInDram, decided]) {
      expect(await generateFixture(name, golden.input_ids, 8, placement)).toEqual(tokens);
    }
    expect(await scoreFixture(name, golden.nll_ids, 64, ON_GPU)).toEqual(score);
  });
});
