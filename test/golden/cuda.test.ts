// The fixtures' golden results on a GPU, and the same tokens for every placement; skipped, and counted, without a GPU.

import { existsSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { cudaStatus, GiB, present } from '../../offload/index.js';
import { forcedSteps, wrongSteps } from './forced.js';
import ownErrors from './rounding-errors.json' with { type: 'json' };
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
const FIXTURES = readdirSync(fixtureFolder('.')).filter((name) =>
  existsSync(`${fixtureFolder(name)}/golden.json`),
);

interface Bounds {
  /** Difference of a logit, by the largest one. */
  readonly logits: number;
  /** The same of the difference of two. */
  readonly steps: number;
  /** Relative. */
  readonly nll: number;
  /** Steps that these hold for, at least. */
  readonly share: number;
}

/** Products of f32 inputs are those of two halves, so that next to nothing is rounded. */
const FLOATS: Bounds = { logits: 8e-3, steps: 5e-3, nll: 1e-3, share: 1 };
/** Two experts are so nearly even for a token that the order of a sum chooses. */
const NEARLY_EVEN: Readonly<Record<string, Bounds>> = { hy_v3: { ...FLOATS, logits: 0.05, share: 0.75 } };
/**
 * Activations are rounded to the weights' 16 bits. Random weights turn choices of experts by that, and what a state forgets, at
 * some tokens: the reference differs from itself by what bench/reference/rounding_errors.py says.
 */
const ROUNDED: Bounds = { logits: 0.02, steps: 0.04, nll: 0.01, share: 0.9 };
const OWN_ERRORS: Readonly<Record<string, Omit<Bounds, 'share'>>> = ownErrors;

function roundedBounds(name: string): Bounds {
  const own = OWN_ERRORS[name] ?? ROUNDED;
  return {
    logits: Math.max(ROUNDED.logits, 2 * own.logits),
    steps: Math.max(ROUNDED.steps, 2 * own.steps),
    nll: Math.max(ROUNDED.nll, 2 * own.nll),
    share: ROUNDED.share,
  };
}

/** Below it, f32 may be too little to tell which token is largest. */
const CERTAIN_MARGIN = 0.05;

describe.skipIf(!HAS_GPU).each(FIXTURES)('%s on a GPU', (name) => {
  const golden = readGolden(name);

  describe.each<[string, Placement, Bounds]>([
    ['in float32', { ...ON_GPU, plan: { activationType: 'f32' } }, NEARLY_EVEN[name] ?? FLOATS],
    ["in the weights' type", ON_GPU, roundedBounds(name)],
  ])('%s', (_, placement, bounds) => {
    it('has the last logits of the reference', async () => {
      const rows = await lastLogits(name, golden.input_ids, placement);
      const differences = golden.last_logits.map((expected, index) => {
        const actual = present(rows[index], 'row');
        const largest = Math.max(...expected.map(Math.abs));
        return (
          Math.max(...expected.map((value, at) => Math.abs(value - (actual[at] ?? Number.NaN)))) / largest
        );
      });
      // A choice that turned shows in one prompt; what is computed wrongly, in all.
      const most = differences.sort((a, b) => a - b)[bounds.share === 1 ? differences.length - 1 : 1];
      expect(most).toBeLessThan(bounds.logits);
    });

    it('has its likelihood', async () => {
      const { nll, tokens } = await scoreFixture(name, golden.nll_ids, golden.nll_ids.length, placement);
      expect(tokens).toBe(golden.nll_ids.length - 1);
      expect(Math.abs(nll - golden.nll) / golden.nll).toBeLessThan(bounds.nll);
    });

    it.each([1, golden.input_ids.length])(
      'has its margin at every step, given its tokens, %i prompts at once',
      async (atOnce) => {
        const steps = await forcedSteps(name, golden, placement, atOnce);
        expect(steps.length).toBe(golden.greedy.flat().length);
        const wrong = wrongSteps(steps, golden, bounds.steps);
        expect(wrong.length, wrong[0]).toBeLessThanOrEqual((1 - bounds.share) * steps.length);
      },
    );
  });

  it('has its greedy tokens up to the first uncertain one, alone and in one batch', async () => {
    const steps = golden.greedy[0]?.length ?? 0;
    const floats = { plan: { activationType: 'f32' } } as const;
    const alone = await generateFixture(name, golden.input_ids, steps, { ...ON_GPU, ...floats }, 1);
    const batched = await generateFixture(name, golden.input_ids, steps, { ...FROM_DRAM, ...floats });
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
