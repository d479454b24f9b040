// Old and new spellings of the same configuration give the same model: tensors, constants and arithmetic.

import { describe, expect, it } from 'vitest';
import { buildArchitecture } from '../../src/models/registry.js';
import { recordForward } from '../helpers/recorded-forward.js';
import { type Config, SMALL, variant } from './small-configs.js';

/** Everything that a configuration decides, as data. */
function decided(config: Config): unknown {
  const { forward: _, block, ...rest } = buildArchitecture(config, 'config.json');
  const blocks = Array.from({ length: rest.blockCount }, (__, index) => block(index));
  return { ...rest, blocks, recorded: recordForward(buildArchitecture(config, 'config.json')) };
}

const LINEAR = { rope_type: 'linear', rope_theta: 500, factor: 2 };
const OLD_LINEAR = {
  rope_scaling: { type: 'linear', factor: 2 },
  rope_theta: 500,
  rope_parameters: undefined,
};

const YARN = { factor: 16, original_max_position_embeddings: 32, beta_fast: 32, beta_slow: 1 };

/** What is compared, the family, the changes to the newest spelling, the changes that make the older one of it. */
const SPELLINGS: readonly (readonly [string, string, Config, Config])[] = [
  ['base', 'llama', {}, { rope_parameters: undefined, rope_theta: 10000, rope_scaling: null }],
  ['default base', 'llama', {}, { rope_parameters: undefined }],
  ['scaling', 'llama', { rope_parameters: LINEAR }, OLD_LINEAR],
  ['scaling', 'mistral', { rope_parameters: LINEAR }, OLD_LINEAR],
  ['scaling', 'falcon', { rope_parameters: LINEAR }, OLD_LINEAR],
  ['head size left out', 'llama', { head_dim: 8 }, { head_dim: null }],
  [
    'rotary part and base',
    'gpt_neox',
    { rope_parameters: { rope_type: 'default', rope_theta: 500, partial_rotary_factor: 0.5 } },
    { rope_parameters: undefined, rotary_pct: 0.5, rotary_emb_base: 500 },
  ],
  [
    'lists that go on for layers ahead',
    'step3p5',
    {},
    {
      num_key_value_heads: undefined,
      num_attention_groups: 2,
      num_sliding_attention_heads: undefined,
      attention_other_setting: { num_attention_heads: 6, num_attention_groups: 2, head_dim: 16 },
      n_routed_experts: undefined,
      moe_num_experts: 6,
      num_experts_per_tok: undefined,
      moe_top_k: 3,
      share_expert_dim: undefined,
      share_expert_dims: 40,
      num_nextn_predict_layers: 1,
      layer_types: [
        ...['full_attention', 'sliding_attention', 'sliding_attention', 'full_attention'],
        'sliding_attention',
      ],
      mlp_layer_types: undefined,
      moe_layers_enum: '2,3,4',
      swiglu_limits: [0, null, 7, 0, 0],
      rope_parameters: undefined,
      rope_theta: [500000, 10000, 10000, 500000, 10000],
      partial_rotary_factors: [0.5, 1, 1, 0.5, 1],
      rope_scaling: {
        rope_type: 'llama3',
        factor: 2,
        original_max_position_embeddings: 64,
        low_freq_factor: 1,
        high_freq_factor: 32,
      },
      yarn_only_types: ['full_attention'],
    },
  ],
  [
    'heads by layer',
    'step3p5',
    {},
    {
      num_sliding_attention_heads: undefined,
      per_layer_config: { 1: { num_attention_heads: 6 }, 2: { num_attention_heads: 6 } },
    },
  ],
  ['a flag that is null', 'deepseek_v3', { rope_interleave: false }, { rope_interleave: null }],
  ['a flag that is null', 'gpt_neox', { attention_bias: false }, { attention_bias: null }],
  [
    'kinds of layers as ratios, one more for what predicts further tokens',
    'deepseek_v4',
    { compress_rates: undefined },
    { compress_rates: undefined, layer_types: undefined, compress_ratios: [0, 4, 128, 0, 0] },
  ],
  [
    'runs of tokens',
    'deepseek_v4',
    {},
    { compress_rates: undefined, compress_rate_csa: 2, compress_rate_hca: 8 },
  ],
  [
    'layers that choose by tokens',
    'deepseek_v4',
    { num_hash_layers: undefined, mlp_layer_types: ['hash_moe', 'hash_moe', 'moe', 'moe'] },
    { num_hash_layers: 2 },
  ],
  [
    'rotations, the stretched ones of entries alone',
    'deepseek_v4',
    {
      rope_parameters: {
        main: { rope_type: 'default', rope_theta: 500, partial_rotary_factor: 0.5 },
        compress: {
          ...YARN,
          rope_type: 'yarn',
          rope_theta: 7000,
          partial_rotary_factor: 0.5,
          attention_factor: 1,
        },
      },
    },
    {
      rope_parameters: undefined,
      rope_theta: 500,
      compress_rope_theta: 7000,
      qk_rope_head_dim: 8,
      rope_scaling: { ...YARN, type: 'yarn' },
    },
  ],
  ['default part', 'gpt_neox', {}, { rope_parameters: undefined }],
  [
    'rotary part',
    'phi3',
    { rope_parameters: { rope_type: 'default', rope_theta: 10000, partial_rotary_factor: 0.5 } },
    { rope_parameters: undefined, rope_theta: 10000, partial_rotary_factor: 0.5 },
  ],
  [
    'listed layers',
    'qwen2',
    {
      use_sliding_window: true,
      sliding_window: 16,
      layer_types: ['full_attention', 'full_attention', 'sliding_attention', 'sliding_attention'],
    },
    { use_sliding_window: true, sliding_window: 16, layer_types: undefined, max_window_layers: 2 },
  ],
  [
    'listed layers',
    'gemma2',
    { layer_types: ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'] },
    { layer_types: undefined },
  ],
  [
    'one rope per kind of layer',
    'gemma2',
    {},
    {
      rope_parameters: {
        full_attention: { rope_type: 'default', rope_theta: 10000 },
        sliding_attention: { rope_type: 'default', rope_theta: 10000 },
      },
    },
  ],
  [
    'rotations by kind',
    'gemma3_text',
    {},
    {
      rope_parameters: undefined,
      rope_theta: 500000,
      rope_local_base_freq: 500000,
      rope_scaling: { rope_type: 'linear', factor: 2 },
    },
  ],
  [
    'rotations by kind',
    'olmo3',
    {},
    { rope_parameters: undefined, rope_theta: 500000, rope_scaling: { rope_type: 'linear', factor: 2 } },
  ],
  [
    'listed layers',
    'cohere2',
    { layer_types: ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'] },
    { sliding_window_pattern: 2 },
  ],
  [
    'letters of layers',
    'exaone4',
    { layer_types: ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'] },
    { sliding_window_pattern: 'LG' },
  ],
  [
    'layers that rotate',
    'smollm3',
    { no_rope_layers: [1, 0, 1, 0] },
    { no_rope_layers: null, no_rope_layer_interval: 2 },
  ],
  [
    'rotary part',
    'glm4',
    { rope_parameters: { rope_type: 'default', rope_theta: 500, partial_rotary_factor: 0.25 } },
    { rope_parameters: undefined, rope_theta: 500, partial_rotary_factor: 0.25 },
  ],
  ['a part of its own', 'nemotron', {}, { rope_parameters: undefined, rope_percent: 0.5 }],
  [
    'layers of their own sizes',
    'gemma4_text',
    { attention_k_eq_v: true, num_global_key_value_heads: 1 },
    {
      global_head_dim: undefined,
      num_global_key_value_heads: undefined,
      per_layer_config: {
        1: { head_dim: 24, num_key_value_heads: 1 },
        3: { head_dim: 24, num_key_value_heads: 1 },
      },
    },
  ],
  ['shared keys', 'gpt_bigcode', { multi_query: true }, { n_embd: undefined, hidden_size: 32 }],
  [
    'kinds by layer',
    'gpt_neo',
    {},
    { attention_layers: ['global', 'local', 'global', 'local'], attention_types: [[['local'], 4]] },
  ],
  ['kinds by group', 'gpt_neo', {}, { attention_types: [[['global', 'local', 'global', 'local'], 1]] }],
  ['counts', 'gpt2', {}, { n_embd: undefined, hidden_size: 32, n_head: undefined, num_attention_heads: 4 }],
  ['counts', 'bloom', {}, { hidden_size: undefined, n_embed: 32, n_layer: undefined, num_hidden_layers: 2 }],
  [
    'RefinedWebModel',
    'falcon',
    { multi_query: true, parallel_attn: true },
    {
      model_type: 'RefinedWebModel',
      num_hidden_layers: undefined,
      n_layer: 2,
      num_attention_heads: undefined,
      n_head: 4,
      multi_query: true,
    },
  ],
  [
    'RefinedWeb',
    'falcon',
    { new_decoder_architecture: true, num_kv_heads: 2 },
    { model_type: 'RefinedWeb', num_hidden_layers: undefined, n_layer: 2, n_head_kv: 2 },
  ],
];

describe('both spellings agree', () => {
  it.each(SPELLINGS)('%s of %s', (_, family, changes, older) => {
    expect(decided(variant(family, { ...changes, ...older }))).toEqual(decided(variant(family, changes)));
  });
});

it.each(Object.keys(SMALL))('%s asks only for tensors it lists', (family) => {
  expect(() => decided(variant(family))).not.toThrow();
});
