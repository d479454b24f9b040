// `--batch_size auto`: as many texts together as make most tokens a second.

import { detectHardware, type Workload } from '../../../offload/index.js';
import { transferFor } from '../../engine/devices.js';
import { findAutoBatch, LARGEST_BATCH } from '../../engine/largest-batch.js';
import { planFor } from '../../engine/plan-for.js';
import type { CommandContext } from '../context.js';
import type { GenerateOptions } from '../options/generate-options.js';
import { engineOptions } from '../session.js';
import type { Source } from '../source.js';
import { type Job, longestPrompt, openPlaces, workloadOf } from './job.js';

/** The options with the batch that was chosen. Throws DOES_NOT_FIT when not even one text does. */
export async function withAutoBatch(
  source: Source,
  job: Job,
  options: GenerateOptions,
  context: CommandContext,
): Promise<GenerateOptions> {
  if (!options.autoBatch) return options;
  const places = openPlaces(job, new Set());
  if (places.length === 0) return options;
  const promptTokens = longestPrompt(job);
  // Built-in prompts, and prompts that are measured with, are repeated until they fill the batch.
  const repeats = !job.given || options.benchmark !== undefined;
  const workload = workloadOf(job, places, options);
  const most = repeats ? LARGEST_BATCH : Math.ceil(places.length / options.batchCount);
  return decideBatch(source, options, { workload, promptTokens, most }, context);
}

/** What a batch is chosen for: the work of any size, the longest prompt, and the largest batch that makes sense. */
export interface BatchQuestion {
  readonly workload: Workload;
  readonly promptTokens: number;
  readonly most: number;
}

/** The options with the batch that makes most tokens a second. Throws DOES_NOT_FIT when not even one text does. */
export async function decideBatch(
  source: Source,
  options: GenerateOptions,
  { workload, promptTokens, most }: BatchQuestion,
  { log }: CommandContext,
): Promise<GenerateOptions> {
  // Measured once, and kept for the run.
  const transfer = await transferFor(engineOptions(source, options, workload), source.opened.model);
  const { dramAvailableBytes = detectHardware().dramAvailableBytes } = options;
  const decided = { ...options, dramAvailableBytes, plan: { ...options.plan, transfer } };
  const { sequences, refusal } = findAutoBatch(
    (count) =>
      planFor(
        source.opened.model,
        engineOptions(source, decided, {
          ...workload,
          sequences: count,
          promptTokens: count * promptTokens,
        }),
      ),
    most,
  );
  const why = refusal === undefined ? 'all there are' : `with one more, ${refusal}`;
  log.info(`--batch_size auto is ${sequences}; ${why}`);
  return { ...decided, batchSize: sequences };
}
