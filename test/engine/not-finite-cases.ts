// Cases for any kind of device: a value that is no finite number, in every part of a model. The texts that it reaches end
// with an error that names the layer, the others are what they are.

import { describe, expect, it } from 'vitest';
import { type Executor, GiB, NO_TOKEN, type Pass, type PassResult } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import type { EngineOptions } from '../../src/engine/engine-options.js';
import { type GenerationOptions, generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import type { GenerationRequest, GenerationResult } from '../../src/engine/request.js';
import type { SamplingSettings } from '../../src/engine/sampler.js';
import { score } from '../../src/engine/score.js';
import { modelFolder } from '../helpers/fixtures.js';
import { type SpoiltValue, spoilCheckpoint } from '../helpers/spoilt-checkpoint.js';
import { tempFolder } from '../helpers/temp-folder.js';

const { NaN: NAN, POSITIVE_INFINITY: INF, NEGATIVE_INFINITY: LOW } = Number;
const NEW_TOKENS = 6;
const CONTEXT = 64;

/** What differs between kinds of devices. */
export type OnDevice = Pick<EngineOptions, 'device' | 'cpu' | 'cuda' | 'deviceBudgetBytes'>;

interface Setting {
  readonly batchSize?: number;
  readonly devices?: number;
  /** How many tokens of prompts a pass takes: longer prompts take several passes. */
  readonly promptTokens?: number;
  readonly output?: 'tokens' | 'nll';
  readonly options?: Partial<GenerationOptions>;
  readonly sampling?: SamplingSettings;
}

export function spoiltFolder(model: string, ...values: readonly SpoiltValue[]): string {
  const folder = tempFolder();
  spoilCheckpoint(folder, model, values);
  return folder;
}

const PROMPT = [3, 50, 7, 120, 9];

/** model, tensor, index of the value, what it becomes, and where that begins to tell */
const PLACES: readonly (readonly [string, string, number, number, RegExp])[] = [
  ['llama', 'model.embed_tokens.weight', 120 * 64 + 5, NAN, /in the embedding, at position 3 of/],
  ['llama', 'model.layers.1.input_layernorm.weight', 0, NAN, /in block 1 \(of/],
  ['llama', 'model.layers.1.self_attn.q_proj.weight', 70, NAN, /in block 1 \(of/],
  ['llama', 'model.layers.1.self_attn.q_proj.weight', 70, INF, /in block 1 \(of/],
  ['llama', 'model.layers.0.self_attn.k_proj.weight', 3, NAN, /in block 0 \(of/],
  ['llama', 'model.layers.0.self_attn.k_proj.weight', 3, LOW, /in block 0 \(of/],
  ['llama', 'model.layers.1.self_attn.v_proj.weight', 2047, INF, /in block 1 \(of/],
  ['llama', 'model.layers.1.self_attn.o_proj.weight', 1000, NAN, /in block 1 \(of/],
  ['llama', 'model.layers.1.mlp.gate_proj.weight', 1, NAN, /in block 1 \(of/],
  ['llama', 'model.layers.0.mlp.up_proj.weight', 10239, LOW, /in block 0 \(of/],
  ['llama', 'model.layers.0.mlp.down_proj.weight', 63, INF, /in block 0 \(of/],
  ['llama', 'model.norm.weight', 63, NAN, /in the last norm/],
  ['llama', 'lm_head.weight', 300 * 64 + 63, NAN, /in the head/],
  ['llama', 'lm_head.weight', 0, INF, /in the head/],
  ['llama', 'lm_head.weight', 383 * 64, LOW, /in the head/],
  ['gemma2', 'model.layers.1.self_attn.q_proj.weight', 8, INF, /in block 1 \(of/],
  ['gemma2', 'model.layers.1.self_attn.k_proj.weight', 8, NAN, /in block 1 \(of/],
  ['gemma2', 'model.embed_tokens.weight', 380 * 40, INF, /in the head/],
  ['opt', 'model.decoder.layers.0.fc1.weight', 5, NAN, /in block 0 \(of/],
  ['opt', 'model.decoder.layers.0.fc1.bias', 5, NAN, /in block 0 \(of/],
  ['opt', 'model.decoder.embed_positions.weight', (2 + 1) * 64, NAN, /in the embedding, at position 1 of/],
  ['gpt2', 'transformer.h.1.attn.c_attn.weight', 64, NAN, /in block 1 \(of/],
  ['gpt2', 'transformer.h.1.mlp.c_fc.bias', 255, LOW, /in block 1 \(of/],
  ['bloom', 'transformer.word_embeddings_layernorm.bias', 3, NAN, /in the embedding/],
  ['bloom', 'transformer.h.0.self_attention.query_key_value.bias', 0, INF, /in block 0 \(of/],
  ['gptj', 'lm_head.bias', 17, INF, /in the head/],
  ['qwen3_moe', 'model.layers.0.mlp.gate.weight', 5 * 48, NAN, /in block 0 \(of/],
  ['qwen3_moe', 'model.layers.0.mlp.gate.weight', 5 * 48, INF, /in block 0 \(of/],
  ['qwen3_moe', 'model.layers.0.self_attn.k_norm.weight', 11, NAN, /in block 0 \(of/],
];

const DRAWN: SamplingSettings = {
  temperature: 0.9,
  topK: 40,
  topP: 0.95,
  minP: 0.01,
  repetitionPenalty: 1.2,
  seed: 5,
};

export function notFiniteCases(device: OnDevice): void {
  async function withEngine<T>(
    folder: string,
    { batchSize = 4, devices = 1, promptTokens = 40, output = 'tokens', sampling }: Setting,
    use: (engine: Engine) => Promise<T>,
  ): Promise<T> {
    const history = sampling !== undefined;
    const workload = { sequences: batchSize, contextTokens: CONTEXT, promptTokens, output, history };
    const engine = await Engine.open(await openModel(folder), {
      offload: 'nvme',
      dramBudgetBytes: GiB,
      ...device,
      ...(device.cpu ? { cpu: { ...device.cpu, virtualDevices: devices } } : {}),
      plan: { passTokens: promptTokens, microBatchTokens: 8 },
      workload,
    });
    try {
      return await use(engine);
    } finally {
      await engine.close();
    }
  }

  /** Texts after these prompts, and what ended them. */
  function continued(
    folder: string,
    prompts: readonly (readonly number[])[],
    setting: Setting = {},
    before: (executor: Executor) => void = () => undefined,
  ): Promise<GenerationResult[]> {
    const { batchSize = 4, options, sampling } = setting;
    const requests: GenerationRequest[] = prompts.map((prompt, index) => ({
      index,
      promptTokens: Int32Array.from(prompt),
      ...(sampling ? { sampling } : {}),
    }));
    return withEngine(folder, setting, ({ executor }) => {
      before(executor);
      return generate(executor, requests, {
        batchSize,
        maxNewTokens: NEW_TOKENS,
        stopTokens: new Set(),
        ...options,
      });
    });
  }

  describe('one value of a checkpoint', () => {
    it.each(PLACES)('%s: %s at %i is %d', async (model, tensor, index, value, where) => {
      const [result] = await continued(spoiltFolder(model, { tensor, index, value }), [PROMPT]);
      expect(result).toMatchObject({ finishReason: 'error', tokens: [], problem: { code: 'NOT_FINITE' } });
      expect(result?.problem?.message).toMatch(/^new token 0 of prompt 0 cannot be told/);
      expect(result?.problem?.message).toMatch(where);
    });
  });

  describe('among other texts', () => {
    const prompts = [
      [3, 50, 7],
      [120, 9],
      [4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16, 17],
      [9, 120, 3],
      [2],
      [77, 120],
    ];
    const reached = (prompt: readonly number[]) => prompt.includes(120);
    const embedding = (value: number): SpoiltValue => ({
      tensor: 'model.embed_tokens.weight',
      index: 120 * 64 + 9,
      value,
    });

    it.each<Setting>([
      { batchSize: 1 },
      { batchSize: 6 },
      { batchSize: 2, promptTokens: 8 },
      { batchSize: 3, promptTokens: 9 },
      { batchSize: 2, devices: 2 },
      { batchSize: 4, sampling: DRAWN },
      { batchSize: 6, options: { maxNewTokens: 1 } },
    ])('only those end that it reaches, and the others are as they are: %j', async (setting) => {
      const told: number[] = [];
      const options = { ...setting.options, onToken: (index: number) => void told.push(index) };
      const clean = await continued(modelFolder('llama'), prompts, setting);
      const results = await continued(spoiltFolder('llama', embedding(NAN)), prompts, {
        ...setting,
        options,
      });
      for (const [index, { tokens, finishReason, problem }] of results.entries()) {
        const sound = clean[index]?.tokens ?? [];
        if (reached(prompts[index] ?? []) || sound.includes(120)) {
          // Tokens before the first that cannot be told are those of before.
          const known = reached(prompts[index] ?? []) ? 0 : sound.indexOf(120) + 1;
          if (known === sound.length) continue;
          expect({ finishReason, tokens }).toEqual({ finishReason: 'error', tokens: sound.slice(0, known) });
          expect(problem?.message).toMatch(
            new RegExp(`token ${known} of prompt ${index} .*in the embedding`),
          );
        } else {
          expect({ finishReason, tokens }).toEqual({ finishReason: 'length', tokens: sound });
        }
        expect(told.filter((one) => one === index)).toHaveLength(tokens.length);
      }
      expect(results.filter(({ finishReason }) => finishReason === 'error').length).toBeGreaterThan(2);
      expect(results.filter(({ finishReason }) => finishReason === 'length').length).toBeGreaterThan(1);
    });

    it('what ended leaves nothing behind in the pages that others get', async () => {
      // One sequence at a time, so that each has the pages of the one before.
      for (const [model, width] of [
        ['llama', 64],
        ['mixtral', 64],
      ] as const) {
        const values = [{ tensor: 'model.embed_tokens.weight', index: 120 * width, value: INF }];
        const many = Array.from({ length: 6 }, (_, i) =>
          i % 2 === 0 ? Array<number>(40).fill(120) : [3, 50, i],
        );
        const setting = { batchSize: 1, promptTokens: 16 };
        const clean = await continued(modelFolder(model), many, setting);
        const results = await continued(spoiltFolder(model, ...values), many, setting);
        for (const [index, result] of results.entries()) {
          if (index % 2 === 0) expect(result.finishReason).toBe('error');
          else expect(result).toEqual(clean[index]);
        }
      }
    });

    it('a text keeps the tokens that it had', async () => {
      const [clean] = await continued(modelFolder('gpt2'), [PROMPT]);
      const folder = spoiltFolder('gpt2', { tensor: 'transformer.wpe.weight', index: 7 * 64, value: NAN });
      const [result] = await continued(folder, [PROMPT]);
      expect(result?.tokens).toEqual(clean?.tokens.slice(0, 3));
      expect(result?.problem?.message).toMatch(
        /^new token 3 of prompt 0 .* in the embedding, at position 7 of/,
      );
    });

    it('sound texts are not watched, and take no pass more', async () => {
      const passes: Pass[] = [];
      await continued(modelFolder('llama'), prompts, { batchSize: 6 }, (executor) => {
        const run = executor.run.bind(executor);
        executor.run = (pass) => {
          passes.push(pass);
          return run(pass);
        };
      });
      expect(passes).toHaveLength(NEW_TOKENS);
      const microBatches = passes.flatMap(({ perDevice }) => perDevice.flat());
      expect(microBatches.filter(({ watched }) => watched)).toEqual([]);
    });

    it('what was not finite but once is no token either, and its error says so', async () => {
      let pass = 0;
      const [result, other] = await continued(modelFolder('llama'), [[3, 4], [5]], {}, (executor) => {
        const run = executor.run.bind(executor);
        executor.run = async (given) => {
          const [first, ...rest] = await run(given);
          if (pass++ !== 2 || !first) return [first, ...rest] as PassResult[];
          return [
            { ...first, tokens: first.tokens.map((token, i) => (i === 0 ? NO_TOKEN : token)) },
            ...rest,
          ];
        };
      });
      expect(other?.finishReason).toBe('length');
      expect(result).toMatchObject({ finishReason: 'error', problem: { code: 'NOT_FINITE' } });
      expect(result?.tokens).toHaveLength(2);
      expect(result?.problem?.message).toMatch(/computed again, they are: memory or a drive/);
    });
  });

  describe('score', () => {
    it.each([
      [
        'model.embed_tokens.weight',
        9 * 64,
        NAN,
        /^the likelihood of token \d+ .* the embedding, at position 20/,
      ],
      ['model.layers.1.mlp.up_proj.weight', 0, INF, /^the likelihood of token 1 .* in block 1/],
      ['lm_head.weight', 300 * 64, NAN, /^the likelihood of token 1 .* in the head/],
      ['lm_head.weight', 300 * 64, LOW, /^the likelihood of token 1 .* in the head/],
    ] as const)(
      'says which likelihood cannot be told: %s at %i is %d',
      async (tensor, index, value, message) => {
        const folder = spoiltFolder('llama', { tensor, index, value });
        const ids = Int32Array.from({ length: 50 }, (_, i) => (i === 20 ? 9 : 10 + i));
        const scored = withEngine(folder, { output: 'nll', promptTokens: 24, batchSize: 2 }, ({ executor }) =>
          score(executor, ids, { windowTokens: 64 }),
        );
        await expect(scored).rejects.toMatchObject({
          code: 'NOT_FINITE',
          message: expect.stringMatching(message),
        });
      },
    );
  });
}
