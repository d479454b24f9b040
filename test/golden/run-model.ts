// Runs a fixture through the whole engine under a chosen placement: what the golden tests compare.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import {
  type CpuBackendOptions,
  type CudaBackendOptions,
  type GatherWish,
  GiB,
  type MicroBatch,
  type Offload,
  type PassResult,
  type Plan,
  type PlanOptions,
  pagesFor,
  present,
  type Workload,
} from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import type { DeviceKind } from '../../src/engine/engine-options.js';
import { generate } from '../../src/engine/generate.js';
import { type OpenedModel, openModel } from '../../src/engine/open-model.js';
import { type Feed, fillPass, packPass } from '../../src/engine/packing.js';
import { PageCache } from '../../src/engine/page-cache.js';
import { planFor } from '../../src/engine/plan-for.js';
import type { GenerationResult } from '../../src/engine/request.js';
import { type Score, score, windowCount } from '../../src/engine/score.js';
import { shareOpened } from '../../src/engine/share-opened.js';
import { LateFeeds } from '../helpers/late-feeds.js';
import { takePages } from '../helpers/take-pages.js';

export interface Golden {
  readonly prompts: readonly string[];
  readonly input_ids: readonly (readonly number[])[];
  readonly last_logits: readonly (readonly number[])[];
  readonly greedy: readonly (readonly number[])[];
  readonly batch_greedy?: readonly (readonly number[])[];
  readonly greedy_margins?: readonly (readonly number[])[];
  readonly nll_ids: readonly number[];
  readonly nll: number;
  readonly texts?: readonly string[];
}

export interface Placement {
  readonly offload: Offload;
  readonly dramBudgetBytes?: number;
  readonly plan?: Partial<PlanOptions>;
  readonly cpu?: CpuBackendOptions;
  readonly cuda?: CudaBackendOptions;
  readonly gather?: GatherWish;
  readonly device?: DeviceKind;
  readonly deviceBudgetBytes?: number;
  /** So many devices compute every layer together. */
  readonly sharedBy?: number;
}

/** The model as the placement's devices compute it. */
export async function openPlaced(folder: string, { sharedBy }: Placement): Promise<OpenedModel> {
  const opened = await openModel(folder);
  return sharedBy === undefined ? opened : shareOpened(opened, sharedBy);
}

export const ALL_DRAM: Placement = { offload: 'dram', dramBudgetBytes: GiB };
export const ALL_NVME: Placement = { offload: 'nvme', dramBudgetBytes: GiB };

export function fixtureFolder(name: string): string {
  return fileURLToPath(new URL(`../fixtures/models/${name}`, import.meta.url));
}

export function readGolden(name: string): Golden {
  return JSON.parse(readFileSync(`${fixtureFolder(name)}/golden.json`, 'utf8')) as Golden;
}

/** Greedy tokens of each prompt; all in one batch, or one after the other. */
export function generateFixture(
  name: string,
  prompts: readonly (readonly number[])[],
  newTokens: number,
  placement: Placement,
  batchSize = prompts.length,
): Promise<GenerationResult[]> {
  return generateFolder(fixtureFolder(name), prompts, newTokens, placement, batchSize);
}

export async function generateFolder(
  folder: string,
  prompts: readonly (readonly number[])[],
  newTokens: number,
  placement: Placement,
  batchSize = prompts.length,
): Promise<GenerationResult[]> {
  const opened = await openPlaced(folder, placement);
  const workload = generationWorkload(prompts, newTokens, batchSize);
  const engine = await Engine.open(opened, { ...placement, workload });
  try {
    const requests = prompts.map((prompt, index) => ({ index, promptTokens: Int32Array.from(prompt) }));
    return await generate(engine.executor, requests, {
      batchSize,
      maxNewTokens: newTokens,
      stopTokens: new Set(),
    });
  } finally {
    await engine.close();
  }
}

export function generationWorkload(
  prompts: readonly (readonly number[])[],
  newTokens: number,
  batchSize: number,
): Workload {
  const lengths = prompts.map((prompt) => prompt.length);
  return {
    sequences: batchSize,
    contextTokens: Math.max(...lengths) + newTokens,
    promptTokens: lengths.reduce((sum, length) => sum + length, 0),
    output: 'tokens',
  };
}

/** A budget one byte short of all layers and few embedding rows, so that some layers must stay on the drive. */
export async function mixedPlacement(
  name: string,
  prompts: readonly (readonly number[])[],
  newTokens: number,
): Promise<{ placement: Placement; plan: Plan }> {
  const { model } = await openModel(fixtureFolder(name));
  const workload = generationWorkload(prompts, newTokens, prompts.length);
  const plan = { microBatchTokens: 32, hostWindowLayers: 1 };
  const all = planFor(model, { ...ALL_DRAM, workload, plan });
  const streamed = planFor(model, { ...ALL_NVME, workload, plan });
  // Without the rows of whole passes that a plan keeps where there is room.
  const bytes = (of: Plan, wanted: (name: string) => boolean) =>
    of.terms.reduce((sum, term) => sum + (wanted(term.name) ? term.bytes : 0), 0);
  const needed =
    bytes(all, (name) => name === 'resident layers') + bytes(streamed, (name) => name !== 'host buffers');
  const placement: Placement = {
    offload: 'auto',
    dramBudgetBytes: needed - 1,
    plan: { hostWindowLayers: 1 },
  };
  return { placement, plan: planFor(model, { ...placement, workload }) };
}

/** Logits after each prompt's last token. */
export async function lastLogits(
  name: string,
  prompts: readonly (readonly number[])[],
  placement: Placement,
): Promise<Float32Array[]> {
  const results = await lastResults(fixtureFolder(name), prompts, placement, 'logits');
  return results.flatMap(({ result: { logits }, vocabSize }) =>
    Array.from({ length: logits.length / vocabSize }, (_, row) =>
      logits.slice(row * vocabSize, (row + 1) * vocabSize),
    ),
  );
}

/**
 * What each pass over all prompts yields after each prompt's last token, on the last of the devices.
 * @param alter of each micro-batch with outputs, counted from 0
 */
export async function lastResults(
  folder: string,
  prompts: readonly (readonly number[])[],
  placement: Placement,
  output: 'tokens' | 'logits',
  alter: (microBatch: MicroBatch, index: number) => MicroBatch = (microBatch) => microBatch,
): Promise<{ result: PassResult; vocabSize: number }[]> {
  const opened = await openPlaced(folder, placement);
  const workload = {
    ...generationWorkload(prompts, 0, prompts.length),
    output,
    history: true,
    topLogProbs: 20,
  };
  const engine = await Engine.open(opened, { ...placement, workload });
  try {
    const { plan, executor } = engine;
    const pages = new PageCache(plan.kvPages, plan.pageTokens);
    const late = new LateFeeds(plan);
    const fed = prompts.map(() => 0);
    const own = prompts.map(({ length }) => takePages(pages, pagesFor(length, plan.pageTokens)));
    const feeds = () =>
      prompts.flatMap((prompt, sequence): Feed<number>[] => {
        const start = present(fed[sequence], 'fed');
        const tokens = Int32Array.from(prompt.slice(start));
        const places = { pages: present(own[sequence], 'pages'), stateSlot: sequence };
        return tokens.length > 0 ? [{ sequence, tokens, start, ...places }] : [];
      });
    executor.begin(Number.POSITIVE_INFINITY);
    const results: { result: PassResult; vocabSize: number }[] = [];
    let altered = 0;
    for (let next = feeds(); next.length > 0; next = feeds()) {
      const work = fillPass(next, plan);
      const placed = late.place(
        packPass(work, plan).microBatches,
        work.map(({ sequence }) => sequence),
      );
      const microBatches = placed.map((microBatch) =>
        microBatch.outputs.length > 0 ? alter(microBatch, altered++) : microBatch,
      );
      const last = executor.batchCount - 1;
      const perDevice = [...Array.from({ length: last }, () => []), microBatches];
      const yielded = await executor.run(
        plan.pipeline ? { batch: last, perDevice: [microBatches] } : { perDevice },
      );
      results.push({ result: present(yielded.at(-1), 'result'), vocabSize: opened.model.vocabSize });
      for (const { sequence, slice } of work) fed[sequence] = slice.startPosition + slice.tokens.length;
    }
    await executor.end();
    return results;
  } finally {
    await engine.close();
  }
}

export function scoreFixture(
  name: string,
  ids: readonly number[],
  windowTokens: number,
  placement: Placement,
): Promise<Score> {
  return scoreFolder(fixtureFolder(name), ids, windowTokens, placement);
}

export async function scoreFolder(
  folder: string,
  ids: readonly number[],
  windowTokens: number,
  placement: Placement,
): Promise<Score> {
  const opened = await openPlaced(folder, placement);
  const windows = windowCount(ids.length, windowTokens);
  const workload = {
    sequences: windows,
    contextTokens: windowTokens,
    promptTokens: ids.length,
    output: 'nll' as const,
  };
  const engine = await Engine.open(opened, { ...placement, workload });
  try {
    return await score(engine.executor, Int32Array.from(ids), { windowTokens });
  } finally {
    await engine.close();
  }
}

/** Steps that must agree: those before the first whose margin is so small that rounding alone may change it. */
export function certainSteps(
  margins: readonly number[] | undefined,
  steps: number,
  threshold = 0.05,
): number {
  const first = margins?.findIndex((margin) => margin < threshold) ?? -1;
  return first === -1 ? steps : first;
}

/** One of every way to store experts, to choose them, and to stand beside other layers. */
export const MIXTURES = [
  'deepseek_v4',
  'gemma4_moe',
  'glm4_moe_lite',
  'gpt_oss-mxfp4',
  'llama4_text',
  'mixtral',
  'nemotron_h',
  'q-fp8-block-deepseek_v3',
  'qwen3_next',
  'step3p7',
];
