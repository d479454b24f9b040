// What an open model is made an engine of: its tokens, its texts, and what is told about it.

import { budgetWarnings } from '../engine/budget.js';
import type { Engine } from '../engine/engine.js';
import { describePlacement } from '../engine/placement.js';
import type { ModelSource } from './model-source.js';
import type { OpenSettings } from './open-options.js';
import { ownWords } from './own-words.js';
import { Coder } from './prompt.js';
import { scoreText } from './score.js';
import type { OpenParts } from './text-engine.js';
import type { EngineInfo } from './types.js';

export function partsOf(
  engine: Engine,
  source: ModelSource,
  settings: OpenSettings,
  contextTokens: number,
): OpenParts {
  const { tokenizer, startToken, endTokens, opened, own } = source;
  const info = infoOf(engine, source, settings, contextTokens);
  const coder = new Coder(opened.checkpoint.folder, { tokenizer, startToken, size: opened.model.vocabSize });
  return {
    info,
    coder,
    ...(settings.task === 'score'
      ? {
          room: undefined,
          score: (ids, signal) => scoreText(engine, ids, { windowTokens: contextTokens, signal }),
        }
      : { room: { engine, coder, contextTokens, endTokens, own }, score: undefined }),
    close: () => engine.close(),
  };
}

function infoOf(
  { model, plan, backend }: Engine,
  { opened, own }: ModelSource,
  settings: OpenSettings,
  contextTokens: number,
): EngineInfo {
  const { checkpoint, warnings } = opened;
  return Object.freeze({
    task: settings.task,
    folder: checkpoint.folder,
    architecture: model.architecture,
    weightBytes: checkpoint.totalBytes,
    vocabSize: model.vocabSize,
    device: settings.device,
    deviceCount: settings.deviceCount,
    placement: describePlacement(plan),
    contextTokens,
    maxSequences: plan.sequences,
    cacheTokens: plan.kvPages * plan.pageTokens,
    warnings: [
      ...settings.warnings,
      ...warnings,
      ...(own?.warnings ?? []),
      ...backend.notes,
      ...budgetWarnings(settings),
    ].map(ownWords),
  });
}
