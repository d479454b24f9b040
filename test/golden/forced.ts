// Teacher forcing: a model is given the tokens that the reference chose, so that each step is judged by itself.

import { pagesFor, present } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { type Feed, fillPass, packPass } from '../../src/engine/packing.js';
import { PageCache } from '../../src/engine/page-cache.js';
import { LateFeeds } from '../helpers/late-feeds.js';
import { takePages } from '../helpers/take-pages.js';
import { fixtureFolder, type Golden, openPlaced, type Placement } from './run-model.js';

/** What the model thinks of a token that the reference chose. */
export interface ForcedStep {
  readonly prompt: number;
  readonly step: number;
  /** Logit of that token minus the largest of the others. */
  readonly margin: number;
  /** Largest magnitude among the step's logits: what differences are measured by. */
  readonly scale: number;
}

interface Forced {
  readonly prompt: number;
  readonly known: number[];
  readonly pages: readonly number[];
  fed: number;
}

/** The logits that follow the prompt and each of the tokens that are given after it. */
export interface ForcedPrompt {
  readonly prompt: readonly number[];
  readonly given: readonly number[];
}

/**
 * Takes in each prompt, then the tokens given after it one by one, `batchSize` prompts at a time.
 * @param onRow the logits after `step` of the given tokens, valid during the call
 */
export async function forcedLogits(
  folder: string,
  prompts: readonly ForcedPrompt[],
  placement: Placement,
  batchSize: number,
  onRow: (prompt: number, step: number, logits: Float32Array) => void,
): Promise<void> {
  const opened = await openPlaced(folder, placement);
  const steps = present(prompts[0], 'prompt').given.length;
  const longest = Math.max(...prompts.map(({ prompt }) => prompt.length));
  const workload = {
    sequences: batchSize,
    contextTokens: longest + steps,
    // A sequence that outgrows its rotary lengths is taken in again from its start.
    promptTokens: batchSize * (longest + steps),
    output: 'logits',
  } as const;
  const engine = await Engine.open(opened, { ...placement, workload });
  const { plan, executor, model } = engine;

  let late = new LateFeeds(plan);
  const pass = async (batch: readonly Forced[], step: number): Promise<void> => {
    const feeds = batch.map((sequence, stateSlot): Feed<Forced> => {
      const { known, fed, pages } = sequence;
      return { sequence, tokens: Int32Array.from(known.slice(fed)), start: fed, pages, stateSlot };
    });
    const work = fillPass(feeds, plan);
    const { microBatches, outputsOf } = packPass(work, plan);
    const owners = work.map(({ sequence }) => sequence);
    const [result] = await executor.run({ perDevice: [late.place(microBatches, owners)] });
    const { logits } = present(result, 'result');
    outputsOf.forEach((sequence, index) => {
      const { prompt, known } = sequence;
      onRow(prompt, step, logits.subarray(index * model.vocabSize, (index + 1) * model.vocabSize));
      const next = prompts[prompt]?.given[step];
      sequence.fed = known.length;
      if (next !== undefined) known.push(next);
      if (known.length === model.recomputeAtTokens) sequence.fed = 0;
    });
  };

  try {
    for (let first = 0; first < prompts.length; first += batchSize) {
      const pages = new PageCache(plan.kvPages, plan.pageTokens);
      late = new LateFeeds(plan);
      const batch = prompts.slice(first, first + batchSize).map(({ prompt }, index): Forced => {
        const own = takePages(pages, pagesFor(prompt.length + steps, plan.pageTokens));
        return { prompt: first + index, known: [...prompt], pages: own, fed: 0 };
      });
      executor.begin(steps + 1);
      for (let step = 0; step <= steps; step++) await pass(batch, step);
      await executor.end();
    }
  } finally {
    await engine.close();
  }
}

/** Each token that the reference chose, as the model judges it. */
export async function forcedSteps(
  name: string,
  { input_ids: prompts, greedy }: Golden,
  placement: Placement,
  batchSize: number,
): Promise<ForcedStep[]> {
  const found: ForcedStep[] = [];
  const forced = prompts.map((prompt, index) => ({
    prompt,
    given: present(greedy[index], 'greedy tokens').slice(0, -1),
  }));
  await forcedLogits(fixtureFolder(name), forced, placement, batchSize, (prompt, step, logits) => {
    const token = present(greedy[prompt]?.[step], 'golden token');
    found.push({ prompt, step, ...judged(logits, token) });
  });
  return found;
}

function judged(logits: Float32Array, token: number): Pick<ForcedStep, 'margin' | 'scale'> {
  let [others, scale] = [Number.NEGATIVE_INFINITY, 0];
  for (const [id, logit] of logits.entries()) {
    if (id !== token) others = Math.max(others, logit);
    scale = Math.max(scale, Math.abs(logit));
  }
  return { margin: present(logits[token], 'logit') - others, scale };
}

/**
 * Steps at which the model's margin is not the reference's, as sentences. Where no margins were stored, the chosen token
 * must be the likeliest.
 * @param tolerance of a margin, which is a difference of two logits, as a share of the largest logit
 */
export function wrongSteps(steps: readonly ForcedStep[], golden: Golden, tolerance: number): string[] {
  return steps.flatMap(({ prompt, step, margin, scale }) => {
    const expected = golden.greedy_margins?.[prompt]?.[step];
    const off = expected === undefined ? Math.max(0, -margin) : Math.abs(margin - expected);
    if (off <= tolerance * scale) return [];
    return [`prompt ${prompt}, step ${step}: margin ${margin}, expected ${expected}, scale ${scale}`];
  });
}
