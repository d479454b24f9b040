// A value that is not supported is refused by its name, never ignored.

import { describe, expect, it } from 'vitest';
import { OperatingError } from '../../offload/index.js';
import { build, type Config } from './small-configs.js';

const ROPE = { rope_theta: 10000 };
const LAYERS = ['full_attention', 'full_attention', 'full_attention', 'chunked_attention'];

/** Family, the changes, and the name that the message must hold. */
const UNSUPPORTED: readonly (readonly [string, Config, string])[] = [
  ...['qwen2', 'qwen2_moe', 'qwen3_moe'].map((family): [string, Config, string] => [
    family,
    { sliding_window: 8, layer_types: Array(4).fill('sliding_attention') },
    'layer_types',
  ]),
  [
    'qwen3_moe',
    { use_sliding_window: true, sliding_window: 8, layer_types: Array(4).fill('full_attention') },
    'layer_types',
  ],
  ['llama', { model_type: 'mamba' }, 'model_type'],
  ['llama', { hidden_act: 'xielu' }, 'hidden_act'],
  ['llama', { clip_qkv: 8 }, 'clip_qkv'],
  ['llama', { attn_logit_softcapping: 50 }, 'attn_logit_softcapping'],
  ['llama', { partial_rotary_factor: 0.5, rope_parameters: undefined }, 'partial_rotary_factor'],
  ['llama', { head_dim: 7 }, 'head_dim'],
  ['bloom', { pretraining_tp: 4, slow_but_exact: true }, 'slow_but_exact'],
  ['llama', { layer_types: LAYERS }, 'chunked_attention'],
  ['llama', { rope_parameters: { ...ROPE, rope_type: 'proportional' } }, 'proportional'],
  ['llama', { rope_parameters: { rope_type: 'default', rope_theta: 0 } }, 'rope_theta'],
  ['llama', { rope_parameters: { full_attention: ROPE, sliding_attention: ROPE } }, 'rope_parameters'],
  ['qwen2', { layer_types: [...LAYERS.slice(1), 'sliding_attention'], sliding_window: 8 }, 'layer_types'],
  ['gpt2', { add_cross_attention: true }, 'add_cross_attention'],
  ['gptj', { rotary_dim: null }, 'rotary_dim'],
  ['gptj', { rotary_dim: 16 }, 'rotary_dim'],
  ['gptj', { rope_scaling: { type: 'linear', factor: 2 } }, 'rope_scaling'],
  ['gpt_neo', { attention_types: [[['global', 'sparse'], 2]] }, 'attention_types'],
  ['gpt_neo', { attention_types: [[['global', 'local'], 3]] }, 'attention_types'],
  ['gpt_neo', { attention_layers: ['global', 'local', 'global', 'sparse'] }, 'attention_layers'],
  ['gpt_neo', { attention_layers: ['global', 'local'] }, 'attention_layers'],
  ['gpt_neox', { rope_parameters: undefined, rotary_pct: 0.3, hidden_size: 40 }, 'rotary_pct'],
  ['gpt_neox', { rope_parameters: undefined, rope_theta: 500 }, 'rope_theta'],
  ['gpt_neox', { rope_parameters: undefined, partial_rotary_factor: 0.5 }, 'partial_rotary_factor'],
  ['falcon', { apply_residual_connection_post_layernorm: true }, 'apply_residual_connection_post_layernorm'],
  ['falcon', { new_decoder_architecture: true, parallel_attn: false }, 'parallel_attn'],
  ['falcon', { new_decoder_architecture: true, num_ln_in_parallel_attn: 3 }, 'num_ln_in_parallel_attn'],
  ['phi3', { attention_bias: true }, 'attention_bias'],
  ['gemma2', { use_bidirectional_attention: true }, 'use_bidirectional_attention'],
  ['mixtral', { num_experts_per_tok: 5 }, 'num_experts_per_tok'],
  ['mixtral', { num_shared_experts: 1 }, 'num_shared_experts'],
  ['qwen3_moe', { shared_expert_intermediate_size: 24 }, 'shared_expert_intermediate_size'],
  ['qwen3_moe', { mlp_only_layers: [4] }, 'mlp_only_layers'],
  ['gpt_oss', { swiglu_limit: 8 }, 'swiglu_limit'],
  ['glm4_moe', { scoring_func: 'softmax' }, 'scoring_func'],
  ['deepseek_v4', { scoring_func: 'softmax' }, 'scoring_func'],
  ['deepseek_v4', { layer_types: LAYERS }, 'layer_types'],
  ['deepseek_v4', { layer_types: undefined, compress_ratios: [0, 4, 8, 0] }, 'compress_ratios'],
  ['deepseek_v4', { layer_types: undefined, compress_ratios: [0, 4, 128] }, 'compress_ratios'],
  ['deepseek_v4', { mlp_layer_types: ['moe', 'moe', 'moe', 'dense'] }, 'mlp_layer_types'],
  ['deepseek_v4', { num_key_value_heads: 2 }, 'num_key_value_heads'],
  ['deepseek_v4', { n_shared_experts: 2 }, 'n_shared_experts'],
  ['deepseek_v4', { norm_topk_prob: false }, 'norm_topk_prob'],
  ['deepseek_v4', { topk_method: 'greedy' }, 'topk_method'],
  ['deepseek_v4', { n_group: 2 }, 'n_group'],
  ['deepseek_v4', { swiglu_limit: 0 }, 'swiglu_limit'],
  ['deepseek_v4', { hc_mult: 9 }, 'hc_mult'],
  ['deepseek_v4', { head_dim: 516 }, 'head_dim'],
  ['deepseek_v4', { attention_bias: true }, 'attention_bias'],
  ['deepseek_v4', { num_experts_per_tok: 9 }, 'num_experts_per_tok'],
  [
    'deepseek_v4',
    { rope_parameters: undefined, partial_rotary_factor: 0.5, rope_scaling: { type: 'dynamic', factor: 2 } },
    'rope_type',
  ],
  ['glm4_moe', { topk_method: 'greedy' }, 'topk_method'],
  ['glm4_moe', { n_group: 2, topk_group: 3 }, 'topk_group'],
  ['glm4_moe', { n_group: 8 }, 'n_group'],
  ['glm4_moe', { num_experts_per_tok: 9 }, 'num_experts_per_tok'],
  ['glm4_moe', { mlp_layer_types: ['dense', 'sparse', 'sparse', 'shared'] }, 'mlp_layer_types'],
  ['dots1', { moe_layer_freq: 2 }, 'moe_layer_freq'],
  ['minimax_m2', { rotary_dim: 4, rope_parameters: { ...ROPE, partial_rotary_factor: 1 } }, 'rotary_dim'],
  ['minimax_m2', { use_qk_norm: false }, 'use_qk_norm'],
  ['minimax_m2', { shared_intermediate_size: 24 }, 'shared_intermediate_size'],
  ['hy_v3', { route_norm: false }, 'route_norm'],
  ['hunyuan_v1_moe', { moe_topk: [2, 2, 2, 5] }, 'moe_topk'],
  ['hunyuan_v1_moe', { moe_intermediate_size: [48, 48, 48, 24] }, 'moe_intermediate_size'],
  ['hunyuan_v1_moe', { num_shared_expert: 2 }, 'num_shared_expert'],
  ['hunyuan_v1_moe', { use_cla: true }, 'use_cla'],
  ['ernie4_5_moe', { moe_k: 7 }, 'moe_k'],
  ['olmoe', { clip_qkv: 8 }, 'clip_qkv'],
  ['granitemoe', { embedding_multiplier: 0 }, 'embedding_multiplier'],
  ['phimoe', { num_experts_per_tok: 1 }, 'num_experts_per_tok'],
  ['phimoe', { router_jitter_noise: 0 }, 'router_jitter_noise'],
  ['llama4_text', { layer_types: LAYERS.map(() => 'sliding_attention') }, 'layer_types'],
  ['llama4_text', { moe_layers: [4] }, 'moe_layers'],
  ['gpt_oss', { hidden_act: 'gelu' }, 'hidden_act'],
  ['cohere2', { use_qk_norm: true }, 'use_qk_norm'],
  ['cohere2', { use_parallel_block: false }, 'use_parallel_block'],
  ['cohere', { hidden_act: 'xielu' }, 'hidden_act'],
  ['exaone4', { sliding_window_pattern: 'LXG' }, 'sliding_window_pattern'],
  [
    'exaone4',
    { sliding_window: null, layer_types: [...LAYERS.slice(1), 'sliding_attention'] },
    'layer_types',
  ],
  ['gemma', { final_logit_softcapping: 30 }, 'final_logit_softcapping'],
  ['gemma', { use_bidirectional_attention: true }, 'use_bidirectional_attention'],
  ['gemma3_text', { attn_logit_softcapping: 50 }, 'attn_logit_softcapping'],
  ['gemma3_text', { layer_types: LAYERS }, 'chunked_attention'],
  ['gemma4_text', { use_bidirectional_attention: 'all' }, 'use_bidirectional_attention'],
  ['gemma4_text', { num_kv_shared_layers: 4 }, 'num_kv_shared_layers'],
  ['gemma4_text', { num_kv_shared_layers: 3 }, 'num_kv_shared_layers'],
  ['gemma4_text', { vocab_size_per_layer_input: 63 }, 'vocab_size_per_layer_input'],
  ['gemma4_text', { per_layer_config: { 1: { sliding_window: 5 } } }, 'sliding_window'],
  ['gemma4_text', { per_layer_config: { 1: { head_dim: 32 } } }, 'head_dim'],
  ['gemma4_text', { rope_parameters: undefined }, 'rope_parameters'],
  ['gemma4_text', { enable_moe_block: true, num_experts: 2, top_k_experts: 3 }, 'top_k_experts'],
  ['glm4', { rope_parameters: { ...ROPE, rope_type: 'mrope' } }, 'mrope'],
  ['gpt_bigcode', { add_cross_attention: true }, 'add_cross_attention'],
  ['granite', { residual_multiplier: 0 }, 'residual_multiplier'],
  ['granite', { logits_scaling: 0 }, 'logits_scaling'],
  ['ministral3', { rope_parameters: undefined }, 'rope_parameters'],
  ['gpt_oss', { rope_parameters: undefined, rope_scaling: undefined }, 'rope_parameters'],
  ['deepseek_v3', { n_group: 2, topk_group: 1, num_experts_per_tok: 5 }, 'num_experts_per_tok'],
  ['glm4_moe', { n_group: 2, topk_group: 1, num_experts_per_tok: 5 }, 'num_experts_per_tok'],
  ['deepseek_v3', { head_dim: 7 }, 'head_dim'],
  ['step3p5', { per_layer_config: { 1: { head_dim: 8 } } }, 'head_dim'],
  ['step3p5', { attention_other_setting: { num_attention_groups: 1 } }, 'num_attention_groups'],
  ['step3p5', { rope_parameters: ROPE }, 'rope_parameters'],
  ['step3p5', { rope_parameters: undefined, rope_theta: [1e4, 1e4, 5e5, 1e4] }, 'rope_theta'],
  ['step3p5', { sparse_attention_config: {} }, 'sparse_attention_config'],
  ['step3p5', { swiglu_limits: [0, -1, 0, 0] }, 'swiglu_limits'],
  ['step3p5', { moe_layers_enum: 'all', mlp_layer_types: undefined }, 'moe_layers_enum'],
  ['mpt', { no_bias: false }, 'no_bias'],
  ['mpt', { expansion_ratio: 2 }, 'expansion_ratio'],
  ['mpt', { logit_scale: 0.5 }, 'logit_scale'],
  ['mpt', { norm_type: 'rmsnorm' }, 'norm_type'],
  ['mpt', { attn_config: { alibi: false } }, 'alibi'],
  ['mpt', { attn_config: { attn_type: 'multiquery_attention' } }, 'attn_type'],
  ['mpt', { attn_config: { qk_ln: true } }, 'qk_ln'],
  ['mpt', { attn_config: { alibi_bias_max: 16 } }, 'alibi_bias_max'],
  ['olmo2', { clip_qkv: 8 }, 'clip_qkv'],
  ['olmo3', { rope_parameters: undefined, rope_theta: 10000 }, 'rope_theta'],
  ['starcoder2', { mlp_type: 'gated' }, 'mlp_type'],
  ['starcoder2', { norm_type: 'rms_norm' }, 'norm_type'],
];

/** Family, the changes, and the name that the message must hold. */
const MALFORMED: readonly (readonly [string, Config, string])[] = [
  ['llama', { hidden_size: undefined }, 'hidden_size'],
  ['llama', { num_key_value_heads: 3 }, 'num_key_value_heads'],
  ['llama', { rope_parameters: { ...ROPE, rope_type: 'linear' } }, 'factor'],
  [
    'llama',
    { rope_parameters: { ...ROPE, rope_type: 'longrope', short_factor: [1], long_factor: [1] } },
    'short_factor',
  ],
  [
    'qwen2',
    { use_sliding_window: true, sliding_window: null, layer_types: ['sliding_attention'] },
    'layer_types',
  ],
  ['gemma2', { sliding_window: null }, 'sliding_window'],
  ['gemma2', { layer_types: 'sliding_attention' }, 'layer_types'],
  ['smollm3', { no_rope_layers: [1, 0] }, 'no_rope_layers'],
  ['gemma3_text', { sliding_window: null }, 'sliding_window'],
  ['mixtral', { num_local_experts: 0 }, 'num_local_experts'],
  ['qwen3_moe', { norm_topk_prob: 1 }, 'norm_topk_prob'],
  ['glm4_moe', { n_group: 3 }, 'n_group'],
  ['hy_v3', { mlp_layer_types: ['dense'] }, 'mlp_layer_types'],
  ['llama4_text', { attention_chunk_size: 0 }, 'attention_chunk_size'],
  ['opt', { num_attention_heads: 5 }, 'num_attention_heads'],
  ['step3p5', { swiglu_limits: [0, 7] }, 'swiglu_limits'],
  ['falcon', { multi_query: 'yes' }, 'multi_query'],
];

function refusal(family: string, changes: Config): OperatingError {
  try {
    build(family, changes);
  } catch (error) {
    if (error instanceof OperatingError) return error;
    throw error;
  }
  throw new Error('the configuration was accepted');
}

describe('refused by name', () => {
  it.each(UNSUPPORTED)('%s with %j: %s', (family, changes, name) => {
    const { code, message } = refusal(family, changes);
    expect(message).toContain(name);
    expect(message).toContain('config.json');
    expect(code).toBe('UNSUPPORTED');
  });
});

describe('malformed', () => {
  it.each(MALFORMED)('%s with %j: %s', (family, changes, name) => {
    const { code, message } = refusal(family, changes);
    expect(message).toContain(name);
    expect(code).toBe('BAD_CONFIG');
  });
});
