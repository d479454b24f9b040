// Checkpoints that also see or hear are their text part: found under every name, and nothing else of them is looked at.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openModel } from '../../src/engine/open-model.js';
import type { JsonObject } from '../../src/files/json-file.js';
import { buildArchitecture } from '../../src/models/registry.js';
import { ALL_NVME, fixtureFolder, generateFolder, readGolden } from '../golden/run-model.js';
import { type Changes, changedCheckpoint } from '../helpers/changed-checkpoint.js';
import { modelFolder } from '../helpers/fixtures.js';
import { fieldOf } from '../helpers/recorded-forward.js';
import type { TestTensor } from '../helpers/safetensors.js';

const VISION: TestTensor[] = ['vision_tower.layers.0.weight', 'model.visual.patch_embed.weight'].map(
  (name) => ({
    name,
    dtype: 'F64', // which no model has
    shape: [4, 4],
  }),
);

function configOf(fixture: string): JsonObject {
  return JSON.parse(readFileSync(join(modelFolder(fixture), 'config.json'), 'utf8')) as JsonObject;
}

/** Everything at the top of the configuration goes into its text part. */
function wrapping(fixture: string, outer: JsonObject, dropped: readonly string[] = []): JsonObject {
  const own = configOf(fixture);
  const text = Object.fromEntries(Object.entries(own).filter(([key]) => !dropped.includes(key)));
  const none = Object.fromEntries(Object.keys(own).map((key) => [key, null]));
  return { ...none, ...outer, text_config: text, vision_config: {} };
}

const renamed = (prefix: string, head: string): NonNullable<Changes['tensors']> => {
  const name = (old: string) => (old === 'lm_head.weight' ? head : old.replace(/^model\./, prefix));
  return (all) => [...all.map((tensor) => ({ ...tensor, name: name(tensor.name) })), ...VISION];
};

/** All that a model reads, without where it lies. */
async function readOf(folder: string) {
  const { model, warnings } = await openModel(folder);
  const { blocks, fixed, head } = model;
  const layers = [...blocks, fixed].map(({ tensors, matrices }) => [
    tensors.map(({ key, dtype, shape }) => [key, dtype, shape]),
    matrices.map(({ key, format, shape }) => [key, format.name, shape]),
  ]);
  const size = [...blocks, fixed].flatMap(({ tensors }) => tensors.map(({ extent }) => extent.sizeBytes));
  return { layers, size, head: head.projection.shape, context: model.maxContextTokens, warnings };
}

describe('the same model as alone', () => {
  it.each([
    ['language_model.model.', 'language_model.lm_head.weight'],
    ['model.language_model.', 'lm_head.weight'],
    ['model.', 'lm_head.weight'],
    ['language_model.', 'lm_head.weight'],
  ])('with names that begin with %s', async (prefix, head) => {
    for (const [fixture, type] of [
      ['gemma3_text', 'gemma3'],
      ['gemma4_text-inputs-per-layer', 'gemma4'],
      ['ministral3', 'mistral3'],
      ['qwen3', 'qwen3_vl'],
    ] as const) {
      const config = wrapping(fixture, { model_type: type });
      const folder = await changedCheckpoint(fixture, { config, tensors: renamed(prefix, head) });
      expect(await readOf(folder)).toEqual(await readOf(modelFolder(fixture)));
    }
  });

  it.each(['llava', 'mistral3'])(
    'quantised weights of %s, told of beside the text part or in it',
    async (type) => {
      const { quantization_config } = configOf('q-ct-int4-llama');
      const tensors = renamed('language_model.model.', 'language_model.lm_head.weight');
      const beside = wrapping('q-ct-int4-llama', { model_type: type, quantization_config }, [
        'quantization_config',
      ]);
      const within = wrapping('q-ct-int4-llama', { model_type: type });
      const alone = await readOf(modelFolder('q-ct-int4-llama'));
      for (const config of [beside, within])
        expect(await readOf(await changedCheckpoint('q-ct-int4-llama', { config, tensors }))).toEqual(alone);
    },
  );
});

it('a head is the token table where both say different things and files hold no other', async () => {
  const tensors = renamed('language_model.model.', 'language_model.lm_head.weight');
  for (const [outer, inner] of [
    [true, false],
    [false, true],
  ]) {
    const config = wrapping('smollm3', { model_type: 'llama4', tie_word_embeddings: outer });
    const text = { ...(config.text_config as JsonObject), tie_word_embeddings: inner };
    const folder = await changedCheckpoint('smollm3', { config: { ...config, text_config: text }, tensors });
    const { model } = await openModel(folder);
    const tables = model.tables.map(({ extent }) => extent.fileOffset);
    expect(Object.values(model.head.projection.parts).map(({ extent }) => extent.fileOffset)).toEqual(tables);
  }
});

it('a head is the token table where files say nothing and hold no other', async () => {
  const without = (dropped: string[]) => wrapping('smollm3', { model_type: 'mistral3' }, dropped);
  const tensors = renamed('language_model.model.', 'language_model.lm_head.weight');
  const folder = await changedCheckpoint('smollm3', { config: without(['tie_word_embeddings']), tensors });
  const { model, warnings } = await openModel(folder);
  const tables = model.tables.map(({ extent }) => extent.fileOffset);
  expect(Object.values(model.head.projection.parts).map(({ extent }) => extent.fileOffset)).toEqual(tables);
  expect(warnings).toEqual([]);
});

it('shards of pictures alone need not be there, nor layers that predict further tokens', async () => {
  const config = wrapping('gemma3_text', { model_type: 'gemma3' });
  const rename = renamed('language_model.model.', 'lm_head.weight');
  let names: Record<string, string> = {};
  const folder = await changedCheckpoint('gemma3_text', {
    config,
    files: (all) => {
      const tensors = rename(all).filter(({ dtype }) => dtype !== 'F64');
      names = Object.fromEntries(tensors.map(({ name }) => [name, 'model-1.safetensors']));
      return {
        'model-1.safetensors': [...tensors, { name: 'mtp.layers.0.weight', dtype: 'F64', shape: [2] }],
      };
    },
    json: {
      'model.safetensors.index.json': {
        weight_map: {
          'vision_tower.layers.0.weight': 'model-2.safetensors',
          'model.visual.patch_embed.weight': 'model-2.safetensors',
        },
      },
    },
  });
  const index = join(folder, 'model.safetensors.index.json');
  const map = JSON.parse(readFileSync(index, 'utf8')) as { weight_map: Record<string, string> };
  writeFileSync(index, JSON.stringify({ weight_map: { ...map.weight_map, ...names } }));
  const { checkpoint, warnings } = await openModel(folder);
  expect(checkpoint.files.map((path) => path.split('/').at(-1))).toEqual(['model-1.safetensors']);
  expect([...checkpoint.tensors.keys()].some((name) => /vision|visual|mtp/.test(name))).toBe(false);
  expect(warnings).toEqual([]);
});

it('Kimi K2.5 is DeepSeek-V3 within a checkpoint that also sees', async () => {
  const { input_ids: prompts } = readGolden('deepseek_v3');
  const folder = await changedCheckpoint('deepseek_v3', {
    config: wrapping('deepseek_v3', { model_type: 'kimi_k25' }, ['model_type']),
    tensors: (all) => [
      ...all.map((tensor) => ({ ...tensor, name: `language_model.${tensor.name}` })),
      { name: 'vision_tower.encoder.blocks.0.wqkv.weight', dtype: 'BF16', shape: [2] },
      { name: 'mm_projector.proj.0.weight', dtype: 'BF16', shape: [2] },
    ],
  });
  expect((await openModel(folder)).warnings).toEqual([]);
  const expected = await generateFolder(fixtureFolder('deepseek_v3'), prompts, 6, ALL_NVME);
  expect(await generateFolder(folder, prompts, 6, ALL_NVME)).toEqual(expected);
});

it('DeepSeek-V3 leaves out the layer that predicts a further token, and its shard need not be there', async () => {
  const { input_ids: prompts } = readGolden('deepseek_v3');
  let names: string[] = [];
  const folder = await changedCheckpoint('deepseek_v3', {
    config: { num_nextn_predict_layers: 1 },
    files: (all) => {
      names = all.map(({ name }) => name);
      return { 'model-1.safetensors': all };
    },
  });
  const layers = Math.max(...names.map((name) => Number(/layers\.(\d+)/.exec(name)?.[1] ?? 0))) + 1;
  const ahead = ['eh_proj.weight', 'enorm.weight', 'shared_head.head.weight', 'self_attn.o_proj.weight'];
  const weight_map = {
    ...Object.fromEntries(names.map((name) => [name, 'model-1.safetensors'])),
    ...Object.fromEntries(ahead.map((name) => [`model.layers.${layers}.${name}`, 'model-2.safetensors'])),
  };
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map }));
  expect((await openModel(folder)).warnings).toEqual([]);
  const expected = await generateFolder(fixtureFolder('deepseek_v3'), prompts, 6, ALL_NVME);
  expect(await generateFolder(folder, prompts, 6, ALL_NVME)).toEqual(expected);
});

it('a layer behind those of the configuration is told of, unless it has what predicts further tokens', async () => {
  const open = async (more: readonly TestTensor[]) => {
    const config = { num_hidden_layers: 3, mlp_layer_types: null, layer_types: null };
    return openModel(
      await changedCheckpoint('glm4_moe', { config, tensors: (tensors) => [...tensors, ...more] }),
    );
  };
  expect((await open([])).warnings.join()).toContain('model.layers.3.');
  const ahead = await open([{ name: 'model.layers.3.eh_proj.weight', dtype: 'F64', shape: [2] }]);
  expect(ahead.warnings).toEqual([]);
  expect([...ahead.checkpoint.tensors.keys()].filter((name) => name.includes('layers.3.'))).toEqual([]);
});

it('sizes that published text parts leave out are those of their reference', () => {
  const build = (type: string, text: JsonObject) =>
    buildArchitecture({ model_type: type, text_config: text }, 'c');
  const gemma = build('gemma3', { model_type: 'gemma3_text', hidden_size: 2560, num_hidden_layers: 34 });
  expect(gemma).toMatchObject({ vocabSize: 262208, blockCount: 34 });
  expect(gemma.head.tied).toBe(true);
  const llava = build('llava', { max_position_embeddings: 4096, vocab_size: 32064 });
  expect(llava).toMatchObject({ hiddenSize: 4096, blockCount: 32, vocabSize: 32064, maxContextTokens: 4096 });
});

it('text parts have the defaults of their own reference, not of the family that they resemble', () => {
  const build = (type: string, text: JsonObject) =>
    buildArchitecture(
      { model_type: type, text_config: { num_hidden_layers: 1, vocab_size: 64, ...text } },
      'c',
    );
  const GROUPED = { hidden_size: 64, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 48 };
  const shapeOf = (type: string, text: JsonObject, key: string) =>
    build(type, { ...GROUPED, ...text })
      .block(0)
      .find((def) => def.key === key)?.shape;
  expect(shapeOf('glm4v', {}, 'self_attn.q_proj.weight')).toEqual([64, 64]);
  expect(shapeOf('glm4v', {}, 'self_attn.q_proj.bias')).toEqual([64]);
  expect(shapeOf('glm4v_moe', { first_k_dense_replace: 0 }, 'self_attn.q_proj.bias')).toEqual([64]);
  const experts = build('qwen3_vl_moe', { ...GROUPED, num_experts: 4, num_experts_per_tok: 2 });
  const [rule] = fieldOf(experts, 'route', 'rule');
  expect(rule?.normalize).toBe(true);
  expect(() => build('qwen3_vl_moe', { ...GROUPED, norm_topk_prob: false })).toThrow('norm_topk_prob');
  expect(() => build('gemma3', { ...GROUPED, final_logit_softcapping: 5 })).toThrow(
    'final_logit_softcapping',
  );
});

it('turns of pictures are none in a text, beside the text part or in it', () => {
  const scaling = { type: 'mrope', mrope_section: [2, 3, 3] };
  const flat = {
    ...{ hidden_size: 64, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 48 },
    ...{ num_hidden_layers: 1, vocab_size: 64, rope_scaling: scaling, vision_config: {} },
  };
  const model = buildArchitecture({ ...flat, model_type: 'qwen2_vl' }, 'config.json');
  expect(model).toMatchObject({ architecture: 'qwen2_vl', hiddenSize: 64 });
  const { vision_config: _, ...text } = flat;
  expect(() => buildArchitecture({ ...text, model_type: 'qwen2' }, 'config.json')).toThrow('mrope');
});

it('names what of the text part is not supported', () => {
  const config = { model_type: 'gemma3', text_config: { attn_logit_softcapping: 50 } };
  expect(() => buildArchitecture(config, 'config.json')).toThrow(
    /config\.json: text_config: attn_logit_softcapping/,
  );
});
