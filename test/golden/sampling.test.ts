// Drawn tokens: with a seed the same whatever the batch, the placement or the devices; and stop strings.

import { beforeAll, describe, expect, it } from 'vitest';
import { GiB } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import type { GenerationRequest, GenerationResult } from '../../src/engine/request.js';
import { GREEDY, type SamplingSettings } from '../../src/engine/sampler.js';
import { StoppingDecoder } from '../../src/text/stop-strings.js';
import { IncrementalDecoder } from '../../src/text/text-decoder.js';
import { loadTokenizer, type Tokenizer } from '../../src/text/tokenizer/tokenizer.js';
import {
  ALL_DRAM,
  ALL_NVME,
  fixtureFolder,
  generateFixture,
  type Placement,
  readGolden,
} from './run-model.js';

const NEW_TOKENS = 10;
const DRAWN: SamplingSettings = { ...GREEDY, temperature: 1.2, topK: 40, topP: 0.95, minP: 0.01, seed: 7 };
const PENALIZED: SamplingSettings = { ...DRAWN, repetitionPenalty: 1.3 };

interface Run {
  readonly name?: string;
  readonly placement?: Placement;
  readonly batchSize?: number;
  readonly samples?: number;
  readonly newTokens?: number;
  readonly stopsAfter?: (request: GenerationRequest) => (token: number) => boolean;
  readonly prompts?: readonly (readonly number[])[];
}

async function draw(sampling: SamplingSettings, run: Run = {}): Promise<GenerationResult[]> {
  const { name = 'llama', placement = ALL_NVME, samples = 1, newTokens = NEW_TOKENS } = run;
  const prompts = run.prompts ?? readGolden(name).input_ids;
  const requests = prompts.flatMap((prompt, index) =>
    Array.from({ length: samples }, (_, sample) => ({
      index,
      sample,
      promptTokens: Int32Array.from(prompt),
      sampling,
    })),
  );
  const { batchSize = requests.length, stopsAfter } = run;
  const workload = {
    sequences: batchSize,
    contextTokens: Math.max(...prompts.map(({ length }) => length)) + newTokens,
    promptTokens: requests.reduce((sum, { promptTokens }) => sum + promptTokens.length, 0),
    output: 'tokens' as const,
    history: sampling.repetitionPenalty !== 1,
  };
  const engine = await Engine.open(await openModel(fixtureFolder(name)), { ...placement, workload });
  try {
    return await generate(engine.executor, requests, {
      batchSize,
      maxNewTokens: newTokens,
      stopTokens: new Set(),
      ...(stopsAfter ? { stopsAfter } : {}),
    });
  } finally {
    await engine.close();
  }
}

const PLACEMENTS: readonly (readonly [string, Run])[] = [
  ['all in DRAM', { placement: ALL_DRAM }],
  ['one at a time', { batchSize: 1 }],
  ['three at a time', { batchSize: 3 }],
  ['two sequences a micro-batch', { placement: { ...ALL_NVME, plan: { microBatchSequences: 2 } } }],
  ['seven tokens a micro-batch', { placement: { ...ALL_NVME, plan: { microBatchTokens: 7 } } }],
  ['one thread', { placement: { ...ALL_NVME, cpu: { threads: 1 } } }],
  [
    'two devices with memory of their own',
    {
      placement: {
        offload: 'nvme',
        dramBudgetBytes: GiB,
        cpu: { virtualDevices: 2 },
        plan: { deviceWindowLayers: 2 },
      },
    },
  ],
];

describe.each([
  ['drawn', DRAWN],
  ['drawn with a penalty', PENALIZED],
])('%s', (_, sampling) => {
  let expected: GenerationResult[];
  beforeAll(async () => {
    expected = await draw(sampling, { samples: 2 });
  });

  it.each(PLACEMENTS)('the same with %s', async (_, run) => {
    expect(await draw(sampling, { samples: 2, ...run })).toEqual(expected);
  });

  it('another seed gives other text, and so does another sample', async () => {
    const other = await draw({ ...sampling, seed: 8 }, { samples: 2 });
    other.forEach(({ tokens }, index) => {
      expect(tokens).not.toEqual(expected[index]?.tokens);
    });
    for (let index = 0; index < expected.length; index += 2) {
      expect(expected[index]?.tokens).not.toEqual(expected[index + 1]?.tokens);
    }
    expect(expected.map(({ sample }) => sample)).toEqual(expected.map((_, index) => index % 2));
  });
});

describe('without a temperature', () => {
  it('the likeliest token is taken, with or without filters', async () => {
    const greedy = await generateFixture('llama', readGolden('llama').input_ids, NEW_TOKENS, ALL_NVME);
    expect(await draw({ ...GREEDY, topK: 3, topP: 0.1, seed: 9 })).toEqual(greedy);
    expect(await draw({ ...GREEDY, temperature: 1, topK: 1, seed: 9 })).toEqual(greedy);
    expect(await draw({ ...GREEDY, temperature: 1e-6, seed: 9 })).toEqual(greedy);
  });

  it('a strong penalty never lets a token come twice, nor one of the prompt', async () => {
    const prompts = readGolden('llama').input_ids;
    for (const { index, tokens } of await draw({ ...GREEDY, repetitionPenalty: 1000 })) {
      const all = [...new Set(prompts[index]), ...tokens];
      // Logits of random weights have both signs: among hundreds of positive ones, none has to be repeated.
      expect(new Set(all).size).toBe(all.length);
    }
  });
});

describe('stop strings', () => {
  const name = 'shakespeare-bloom';
  let tokenizer: Tokenizer;
  let prompts: number[][];
  let full: GenerationResult[];
  const textOf = (prompt: readonly number[], tokens: readonly number[], stops: readonly string[] = []) => {
    const decoder = new StoppingDecoder(new IncrementalDecoder(tokenizer, prompt), stops);
    return tokens.map((token) => decoder.push(token)).join('') + decoder.end();
  };
  beforeAll(async () => {
    tokenizer = await loadTokenizer(fixtureFolder(name));
    prompts = await tokenizer.encodeBatch(['KING RICHARD III:', 'ROMEO:\nWhat']);
    full = await draw(GREEDY, { name, prompts, newTokens: 40 });
  });

  it('end a text wherever they lie, also across tokens; the other texts go on', async () => {
    const [prompt = [], other = []] = prompts;
    const [first, second] = full;
    const text = textOf(prompt, first?.tokens ?? []);
    for (const [from, length] of [
      [3, 1],
      [9, 6],
      [20, 11],
    ] as const) {
      const stop = text.slice(from, from + length);
      const stopsAfter = (request: GenerationRequest) => {
        const decoder = new StoppingDecoder(new IncrementalDecoder(tokenizer, [...request.promptTokens]), [
          stop,
        ]);
        return (token: number) => {
          decoder.push(token);
          return decoder.stopped;
        };
      };
      const [stopped, unstopped] = await draw(GREEDY, { name, prompts, newTokens: 40, stopsAfter });
      const kept = stopped?.tokens ?? [];
      expect(stopped?.finishReason).toBe('stop');
      expect(kept).toEqual(first?.tokens.slice(0, kept.length));
      expect(textOf(prompt, kept, [stop])).toBe(text.slice(0, text.indexOf(stop)));
      expect(textOf(prompt, kept.slice(0, -1))).not.toContain(stop);
      const whole = textOf(other, second?.tokens ?? []);
      if (!whole.includes(stop)) expect(unstopped).toEqual(second);
    }
  });
});
