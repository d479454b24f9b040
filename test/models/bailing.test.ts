// Ling: no library has it, but GLM-4.5 with normed heads computes the same under other names.

import { expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import { ALL_NVME, fixtureFolder, generateFolder, readGolden } from '../golden/run-model.js';
import { changedCheckpoint } from '../helpers/changed-checkpoint.js';
import { fieldOf } from '../helpers/recorded-forward.js';
import type { TestTensor } from '../helpers/safetensors.js';
import { build } from './small-configs.js';

const CONFIG = {
  model_type: 'bailing_moe',
  architectures: ['BailingMoeV2ForCausalLM'],
  auto_map: { AutoModelForCausalLM: 'modeling_bailing_moe_v2.BailingMoeV2ForCausalLM' },
  n_routed_experts: undefined,
  num_experts: 8,
  n_shared_experts: undefined,
  num_shared_experts: 1,
  score_function: 'sigmoid',
  moe_router_enable_expert_bias: true,
  use_bias: false,
  use_qkv_bias: false,
  norm_head: false,
  router_dtype: 'fp32',
};
const NAMES: readonly (readonly [RegExp, string])[] = [
  [/embed_tokens/, 'word_embeddings'],
  [/self_attn\.o_proj/, 'attention.dense'],
  [/self_attn\.q_norm/, 'attention.query_layernorm'],
  [/self_attn\.k_norm/, 'attention.key_layernorm'],
  [/e_score_correction_bias/, 'expert_bias'],
];

/** The fixture's tensors as Ling's files have them, with a layer that predicts a further token. */
function asLing(all: readonly Required<TestTensor>[]): TestTensor[] {
  const find = (name: string) =>
    present(
      all.find((tensor) => tensor.name === name),
      name,
    );
  const fused = all.flatMap(({ name, dtype }) => {
    const [, path] = /^(.*)self_attn\.q_proj\.weight$/.exec(name) ?? [];
    if (path === undefined) return [];
    const parts = ['q', 'k', 'v'].map((part) => find(`${path}self_attn.${part}_proj.weight`));
    const rows = parts.reduce((sum, { shape: [own = 0] }) => sum + own, 0);
    const data = Buffer.concat(parts.map((part) => part.data));
    return [{ name: `${path}attention.query_key_value.weight`, dtype, shape: [rows, 32], data }];
  });
  const others = all
    .filter(({ name }) => !/self_attn\.[qkv]_proj/.test(name))
    .map((tensor) => ({
      ...tensor,
      name: NAMES.reduce((name, [from, to]) => name.replace(from, to), tensor.name),
    }));
  const ahead = { name: 'model.layers.4.eh_proj.weight', dtype: 'BF16', shape: [2] };
  return [...others, ...fused, ahead];
}

it('gives the tokens of the same model under the names of GLM-4.5', async () => {
  const { input_ids: prompts } = readGolden('glm4_moe');
  const folder = await changedCheckpoint('glm4_moe', { config: CONFIG, tensors: asLing });
  expect((await openModel(folder)).warnings).toEqual([]);
  const expected = await generateFolder(fixtureFolder('glm4_moe'), prompts, 8, ALL_NVME);
  expect(await generateFolder(folder, prompts, 8, ALL_NVME)).toEqual(expected);
});

it('routes by sigmoids in groups, or by a softmax in the first generation, which turns whole heads', () => {
  const [second] = fieldOf(build('bailing_moe'), 'route', 'rule');
  expect(second).toMatchObject({ score: 'sigmoid', groups: 4, groupsKept: 2, groupBest: 2, scale: 2.5 });
  const first = build('bailing_moe', {
    score_function: undefined,
    moe_router_enable_expert_bias: undefined,
    n_group: undefined,
    topk_group: undefined,
    routed_scaling_factor: undefined,
    use_qk_norm: undefined,
    partial_rotary_factor: undefined,
    first_k_dense_replace: undefined,
  });
  expect(fieldOf(first, 'route', 'rule')[0]).toMatchObject({ score: 'softmax', normalize: true, groups: 1 });
  expect(fieldOf(first, 'route', 'rule')).toHaveLength(4);
  expect(fieldOf(first, 'rotary', 'inverseFrequencies')[0]?.shape).toEqual([8]);
});

it.each([
  { norm_head: true },
  { use_bias: true },
  { layer_group_size: 5 },
  { score_function: 'sqrtsoftplus' },
  { moe_router_enable_expert_bias: false },
  { norm_topk_prob: false },
  { rotary_dim: 8 },
])('refuses %j by name', (changes) => {
  expect(() => build('bailing_moe', changes)).toThrow(Object.keys(changes)[0]);
});

it.each(['n_group', 'topk_group', 'routed_scaling_factor', 'partial_rotary_factor'])(
  'does not guess %s',
  (name) => {
    expect(() => build('bailing_moe', { [name]: undefined })).toThrow(name);
  },
);
