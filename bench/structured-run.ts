// Texts that are bound to a schema, and free ones, on one engine: for the benchmark, and in short for tests.

import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Ajv } from 'ajv';
import { GiB } from '../offload/index.js';
import { Engine } from '../src/engine/engine.js';
import { openModel } from '../src/engine/open-model.js';
import type { GenerationRequest } from '../src/engine/request.js';
import { GREEDY } from '../src/engine/sampler.js';
import { Scheduler } from '../src/engine/scheduler.js';
import { Grammars } from '../src/structured/grammars.js';
import type { Schema } from '../src/structured/schema.js';
import { loadTokenizer } from '../src/text/tokenizer/tokenizer.js';

/** Texts that obey it end by themselves. */
export const SCHEMA: Schema = {
  type: 'object',
  properties: {
    name: { type: 'string', minLength: 1, maxLength: 12 },
    age: { type: 'integer', minimum: 0, maximum: 120 },
    mood: { enum: ['merry', 'grave', 'mad "with" love'] },
    height: { type: 'number', minimum: 0, maximum: 2.5 },
    lines: { type: 'array', items: { type: 'string', pattern: '^[A-Z].{0,6}$' }, minItems: 1, maxItems: 2 },
    heir: { anyOf: [{ type: 'null' }, { type: 'boolean' }] },
  },
  required: ['name', 'age', 'mood', 'height', 'lines', 'heir'],
  additionalProperties: false,
};

/** Longer than any text that obeys the schema. */
const MOST_TOKENS = 900;

export interface Figures {
  readonly tokensPerSecond: number;
  readonly longestPauseMs: number;
}

export interface BoundFigures extends Figures {
  readonly texts: readonly string[];
  /** By text; what ended it is one of them. */
  readonly newTokens: readonly number[];
  /** By text: it ended by itself, and obeys the schema. */
  readonly obeys: readonly boolean[];
}

export interface BoundRun {
  /** A text of so many tokens each: what ends at other times leaves other passes half empty. */
  free(newTokens: readonly number[], first: number): Promise<Figures>;
  bound(requests: number, first: number): Promise<BoundFigures>;
  close(): Promise<void>;
}

export interface BoundRunOptions {
  readonly folder: string;
  readonly batch: number;
  readonly device: 'cpu' | 'cuda';
  readonly threads: number;
}

export async function openBound({ folder, batch, device, threads }: BoundRunOptions): Promise<BoundRun> {
  const tokenizer = await loadTokenizer(folder);
  const opened = await openModel(folder);
  const promptTokens = Int32Array.from(await tokenizer.encode('KING RICHARD III:\n'));
  const engine = await Engine.open(opened, {
    offload: 'dram',
    dramBudgetBytes: 2 * GiB,
    ...(device === 'cuda' ? { device } : { cpu: { threads } }),
    workload: {
      sequences: batch,
      contextTokens: promptTokens.length + MOST_TOKENS,
      promptTokens: promptTokens.length * batch,
      output: 'tokens',
      masks: true,
    },
  });
  const stopTokens = new Set(tokenizer.eosTokenIds);
  const grammars = new Grammars({
    tokenizer,
    vocabSize: opened.model.vocabSize,
    stopTokens: [...stopTokens],
  });
  const validate = new Ajv({ strict: false }).compile(SCHEMA as object);
  const scheduler = new Scheduler(engine.executor, { batchSize: batch });

  const measured = async (requests: readonly GenerationRequest[]) => {
    const delays = monitorEventLoopDelay({ resolution: 5 });
    delays.enable();
    const startMs = performance.now();
    const results = await Promise.all(requests.map((request) => scheduler.submit(request).result));
    const seconds = (performance.now() - startMs) / 1e3;
    delays.disable();
    // A token that ends a text is drawn as others are.
    const newTokens = results.map(
      ({ tokens, finishReason }) => tokens.length + Number(finishReason === 'stop'),
    );
    const tokens = newTokens.reduce((sum, count) => sum + count, 0);
    return { results, newTokens, tokensPerSecond: tokens / seconds, longestPauseMs: delays.max / 1e6 };
  };
  const request = (index: number): GenerationRequest => ({
    index,
    promptTokens,
    maxNewTokens: MOST_TOKENS,
    stopTokens,
    sampling: { ...GREEDY, temperature: 1.5, seed: 11 },
  });
  return {
    free: (newTokens, first) =>
      measured(
        newTokens.map((maxNewTokens, at) => ({
          ...request(first + at),
          maxNewTokens,
          stopTokens: new Set<number>(),
        })),
      ),
    bound: async (requests, first) => {
      const grammar = { kind: 'json_schema' as const, schema: SCHEMA };
      const constraints = await Promise.all(
        Array.from({ length: requests }, () => grammars.constraint(grammar)),
      );
      const made = await measured(
        constraints.map((constraint, at) => ({ ...request(first + at), constraint })),
      );
      const texts = made.results.map(({ tokens }) => tokenizer.decode(tokens));
      const sound = made.results.map(
        ({ finishReason }, at) => finishReason === 'stop' && obeys(texts[at] ?? ''),
      );
      return { ...made, texts, obeys: sound };
    },
    close: async () => {
      await scheduler.close();
      await engine.close();
      await grammars.close();
    },
  };

  function obeys(text: string): boolean {
    try {
      return validate(JSON.parse(text));
    } catch {
      return false;
    }
  }
}
