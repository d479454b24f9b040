// The model that is served, or that a batch is asked of: its names, its tokens, how much is held at once.

import { join } from 'node:path';
import type { Workload } from '../../offload/index.js';
import { servedAnswers } from '../api/answer-style.js';
import { type ServedModel, servedModel } from '../api/served-model.js';
import type { Engine } from '../engine/engine.js';
import { type ModelSampling, readGenerationConfig } from '../engine/generation-config.js';
import { planFor } from '../engine/plan-for.js';
import { workloadFor } from '../library/workload.js';
import type { Tokenizer } from '../text/tokenizer/tokenizer.js';
import type { CommandContext } from './context.js';
import { badOption } from './options/option-reader.js';
import type { SharedOptions } from './options/shared-settings.js';
import { engineOptions } from './session.js';
import type { Source } from './source.js';

export interface ServedOptions extends SharedOptions {
  /** What requests call the model; none: what it was opened by. */
  readonly servedNames: readonly string[];
  /** Undefined: as the chat template says. */
  readonly toolParser: string | undefined;
  readonly reasoningParser: string | undefined;
  readonly batchSize: number | undefined;
  readonly maxContext: number | undefined;
  readonly cacheTokens: number | undefined;
}

export function ownSampling({ opened }: Source, { log }: CommandContext): ModelSampling {
  const { folder, generationConfig } = opened.checkpoint;
  const path = join(folder, 'generation_config.json');
  const own = readGenerationConfig(generationConfig, path, opened.model.maxContextTokens);
  for (const line of own.warnings) log.warn(line);
  return own;
}

export interface Makings {
  readonly source: Source;
  readonly options: ServedOptions;
  readonly tokenizer: Tokenizer;
  readonly own: ModelSampling | undefined;
  readonly engine: Engine;
  readonly contextTokens: number;
}

/** Its grammars are to be closed. */
export async function openServed(makings: Makings): Promise<ServedModel> {
  const { source, options, tokenizer, own, engine, contextTokens } = makings;
  const { opened } = source;
  const names = options.servedNames.length > 0 ? options.servedNames : [options.name];
  const { folder } = opened.checkpoint;
  const { toolParser: calls, reasoningParser: reasoning } = options;
  const { vocabSize } = engine.model;
  const answers = await servedAnswers({ folder, tokenizer, vocabSize, calls, reasoning });
  return servedModel({ opened, engine, tokenizer, names, contextTokens, own, answers });
}

/** Throws BAD_OPTION or DOES_NOT_FIT. */
export function servedWorkload(source: Source, options: ServedOptions): Workload {
  const { maxContext, cacheTokens, batchSize } = options;
  const { model } = source.opened;
  const possible = model.maxContextTokens;
  if (maxContext !== undefined && possible !== undefined && maxContext > possible) {
    throw badOption(`--max_context is ${maxContext}, but the model has a context of ${possible}: lower it`);
  }
  if (maxContext !== undefined && cacheTokens !== undefined && cacheTokens < maxContext) {
    throw badOption(
      `--cache_tokens is ${cacheTokens}, but one text may have ${maxContext}: raise it, or lower --max_context`,
    );
  }
  const limits = {
    task: 'generate',
    maxSequences: batchSize,
    contextTokens: maxContext,
    cacheTokens,
  } as const;
  // Any answer may be bound by a format.
  const workload = workloadFor(limits, possible, (some) =>
    planFor(model, engineOptions(source, options, { ...some, masks: true })),
  );
  return { ...workload, masks: true };
}
