// Fixtures of mixtures in slots: one engine, what it generates, and what became of the chosen experts.

import { present } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import type { EngineOptions } from '../../src/engine/engine-options.js';
import { type GenerationOptions, generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import type { GenerationRequest, GenerationResult } from '../../src/engine/request.js';
import { ALL_DRAM, fixtureFolder, generationWorkload, readGolden } from './run-model.js';

/** Mixtures of each kind that has slots of a GPU. */
export const GPU_MIXTURES = [
  'deepseek_v4',
  'glm4_moe_lite',
  'gpt_oss',
  'gpt_oss-mxfp4',
  'mixtral',
  'q-fp8-block-deepseek_v3',
  'qwen3_next',
];

/** What is not said of the placement is that of all in DRAM. */
export type SlotRunOptions = Partial<Omit<EngineOptions, 'workload'>> & {
  readonly newTokens: number;
  /** Sequences at once. */
  readonly batchSize: number;
};

/** The same once more, when steps begin in advance: as soon as tables of tokens are there. Undefined where they are not to come. */
async function inAdvance(
  { executor }: Engine,
  requests: readonly GenerationRequest[],
  limits: GenerationOptions,
): Promise<GenerationResult[] | undefined> {
  if (!executor.plan.tablesRest) return undefined;
  while (!executor.runsAhead) await generate(executor, requests.slice(0, 1), { ...limits, maxNewTokens: 1 });
  return generate(executor, requests, limits);
}

/** The golden prompts of a fixture, whatever token ends a text. */
export async function generateChosen(name: string, { newTokens, batchSize, ...options }: SlotRunOptions) {
  const prompts = readGolden(name).input_ids;
  const engine = await Engine.open(await openModel(fixtureFolder(name)), {
    ...ALL_DRAM,
    ...options,
    workload: generationWorkload(prompts, newTokens, batchSize),
  });
  try {
    const requests = prompts.map((prompt, index) => ({ index, promptTokens: Int32Array.from(prompt) }));
    const limits = { batchSize, maxNewTokens: newTokens, stopTokens: new Set<number>() };
    const { executor } = engine;
    const results = await generate(executor, requests, limits);
    const counts = await executor.slotCounts();
    return { results, counts, slots: executor.plan.slots, again: await inAdvance(engine, requests, limits) };
  } finally {
    await engine.close();
  }
}

/** The same where the plan has slots. */
export async function generateInSlots(name: string, options: SlotRunOptions) {
  const { counts, slots, ...texts } = await generateChosen(name, options);
  return { ...texts, counts: present(counts, 'counts'), slots: present(slots, 'slots of the plan') };
}
