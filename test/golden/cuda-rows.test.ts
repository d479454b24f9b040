// Rows that the processor multiplies beside a GPU: every step has the reference's margin, whatever share of them travels.

import { describe, expect, it } from 'vitest';
import { cudaStatus, GiB } from '../../offload/index.js';
import { forcedSteps, wrongSteps } from './forced.js';
import { type Placement, readGolden } from './run-model.js';

const HAS_GPU = cudaStatus().problem === '';
const MODELS = [
  'bloom',
  'gemma2',
  'gpt2',
  'gptj',
  'llama',
  'opt',
  'q-ct-int4-llama',
  'q-fp8-block-llama',
  'qwen3_5_text',
];

/** As in cuda.test.ts: next to nothing is rounded, or activations are to the weights' type. */
const BOUNDS = [
  ['f32', 5e-3, 1],
  [undefined, 0.08, 0.9],
] as const;

describe.skipIf(!HAS_GPU).each(MODELS)('%s: rows beside a GPU', (name) => {
  const golden = readGolden(name);

  it.each(BOUNDS)('activations in %s', async (activationType, bound, certain) => {
    for (const hostRowShare of [0, 11, 31]) {
      const placement: Placement = {
        device: 'cuda',
        offload: 'dram',
        dramBudgetBytes: GiB,
        plan: { hostRowShare, ...(activationType ? { activationType } : {}) },
      };
      for (const atOnce of [1, golden.input_ids.length]) {
        const steps = await forcedSteps(name, golden, placement, atOnce);
        const wrong = wrongSteps(steps, golden, bound);
        expect(wrong.length, `${hostRowShare}: ${wrong[0]}`).toBeLessThanOrEqual(
          (1 - certain) * steps.length,
        );
      }
    }
  });
});
