// A model that is served, on an engine of its own, as the command opens one.

import { servedAnswers } from '../../src/api/answer-style.js';
import { Api } from '../../src/api/api.js';
import type { ApiError } from '../../src/api/api-error.js';
import type { Asking, ServerEvent } from '../../src/api/reply.js';
import { type ServedModel, servedModel } from '../../src/api/served-model.js';
import { Engine, type ServingOptions } from '../../src/engine/engine.js';
import { readGenerationConfig } from '../../src/engine/generation-config.js';
import { openModel } from '../../src/engine/open-model.js';
import { ROOM_FOR_WISHES } from '../../src/library/workload.js';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';

export interface Served {
  readonly api: Api;
  readonly engine: Engine;
  readonly model: ServedModel;
  readonly faults: readonly ApiError[];
}

export interface ServedOptions extends ServingOptions {
  readonly sequences?: number;
  readonly contextTokens?: number;
  readonly cachedTokens?: number;
  /** With grammars and calls; whoever asks for them closes the grammars. */
  readonly obeys?: boolean;
}

/** The caller closes the engine. */
export async function serve(folder: string, options: ServedOptions = {}): Promise<Served> {
  const {
    sequences = 8,
    contextTokens = 256,
    cachedTokens = sequences * contextTokens,
    obeys = false,
    ...serving
  } = options;
  const opened = await openModel(folder);
  const tokenizer = await loadTokenizer(folder);
  const engine = await Engine.open(opened, {
    offload: 'dram',
    device: 'cpu',
    cpu: { threads: 1 },
    workload: {
      sequences,
      contextTokens,
      cachedTokens,
      promptTokens: contextTokens,
      output: 'tokens',
      ...ROOM_FOR_WISHES,
      masks: obeys,
    },
  });
  engine.serveWith(serving);
  const { generationConfig } = opened.checkpoint;
  const own = readGenerationConfig(generationConfig, folder, opened.model.maxContextTokens);
  const names = ['small', 'also-small'];
  const answers = obeys
    ? await servedAnswers({ folder, tokenizer, vocabSize: opened.model.vocabSize })
    : undefined;
  const model = servedModel({ opened, engine, tokenizer, names, contextTokens, own, answers });
  const faults: ApiError[] = [];
  return { api: new Api(model, (fault) => faults.push(fault)), engine, model, faults };
}

export const ASKING: Asking = {
  turn: { client: 'a', kind: 'interactive' },
  signal: new AbortController().signal,
};

export type Json = Readonly<Record<string, unknown>>;

/** All events of a streamed reply; what is no JSON, as it is. */
export async function eventsOf(events: AsyncIterable<ServerEvent>): Promise<ServerEvent[]> {
  const all: ServerEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}
