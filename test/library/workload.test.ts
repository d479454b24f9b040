// What an engine holds at once where a program does not say it: as much as fits, and no layer rests elsewhere for it.

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { GiB, type Plan, type Workload } from '../../offload/index.js';
import { planFor } from '../../src/engine/plan-for.js';
import { shapeModel } from '../../src/engine/shape.js';
import { workloadFor } from '../../src/library/workload.js';

const SHAPES = new URL('../../configs/models/', import.meta.url);
const UNSAID = { maxSequences: undefined, contextTokens: undefined, cacheTokens: undefined };

function choose(
  name: string,
  gib: number,
  said: {
    maxSequences?: number;
    contextTokens?: number;
    cacheTokens?: number;
    task?: 'generate' | 'score';
  } = {},
): { workload: Workload; plan: (workload: Workload) => Plan } {
  const config = JSON.parse(readFileSync(new URL(`${name}.json`, SHAPES), 'utf8'));
  const { model } = shapeModel(config, `${name}.json`);
  const plan = (workload: Workload) =>
    planFor(model, { offload: 'auto', device: 'cpu', dramBudgetBytes: gib * GiB, workload });
  const limits = { task: 'generate' as const, ...UNSAID, ...said };
  return { workload: workloadFor(limits, model.maxContextTokens, plan), plan };
}

const resting = (plan: Plan) => plan.layers.filter(({ tier }) => tier === 'dram').length;

it.each([
  ['llama-4b', 60, 16, 4096, 4],
  // Keys and values of several long texts would take the room of experts in DRAM, and then layers come whole.
  ['mixtral-8x7b', 30, 16, 4096, 1],
  ['bloom-176b', 60, 16, 4096, 1],
  // No text of the whole length fits.
  ['bloom-176b', 30, 16, 2048, 1],
])(
  '%s with %d GiB: %d texts, the longest of %d tokens, %d of these at once',
  (name, gib, sequences, context, longest) => {
    const { workload, plan } = choose(name, gib);
    expect(workload).toMatchObject({ sequences, contextTokens: context, cachedTokens: longest * context });
    const least = plan({ ...workload, cachedTokens: context });
    expect(resting(plan(workload))).toBe(resting(least));
    if (longest < 4) {
      const more = { ...workload, cachedTokens: (longest + 1) * context };
      const places = (() => {
        try {
          return resting(plan(more));
        } catch {
          return undefined;
        }
      })();
      expect(places).not.toBe(resting(least));
    }
  },
);

it('what is said counts, and what does not go together is refused', () => {
  expect(choose('llama-4b', 60, { maxSequences: 3, contextTokens: 100 }).workload).toMatchObject({
    sequences: 3,
    contextTokens: 100,
    cachedTokens: 300,
  });
  expect(choose('llama-4b', 60, { cacheTokens: 700 }).workload).toMatchObject({
    contextTokens: 700,
    cachedTokens: 700,
  });
  expect(() => choose('llama-4b', 60, { cacheTokens: 700, contextTokens: 800 })).toThrow(
    /cacheTokens is 700/,
  );
  expect(() => choose('llama-4b', 60, { contextTokens: 1e6 })).toThrow(/contextTokens is 1000000/);
  const tooMany = choose('llama-4b', 60, {
    maxSequences: 16_384,
    contextTokens: 4096,
    cacheTokens: 16_384 * 4096,
  });
  expect(() => tooMany.plan(tooMany.workload)).toThrow(/lower --batch_size/);
  expect(choose('llama-4b', 60, { task: 'score' }).workload).toMatchObject({
    output: 'nll',
    sequences: 8,
    contextTokens: 2048,
    promptTokens: 8 * 2048,
  });
});
