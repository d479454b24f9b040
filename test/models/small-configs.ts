// One small configuration per family, as the newest generation of checkpoints writes it.

import type { ArchitectureModel } from '../../src/models/architecture.js';
import { buildArchitecture } from '../../src/models/registry.js';

export type Config = Readonly<Record<string, unknown>>;

const ROPE = { rope_type: 'default', rope_theta: 10000 };
const BY_TYPE = {
  full_attention: { rope_type: 'linear', factor: 2, rope_theta: 500000 },
  sliding_attention: { rope_type: 'default', rope_theta: 500000 },
};
const GROUPED = {
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
  rope_parameters: ROPE,
};

const DEEPSEEK = {
  moe_intermediate_size: 24,
  n_routed_experts: 8,
  n_shared_experts: 2,
  num_experts_per_tok: 3,
  first_k_dense_replace: 1,
};

const LATENT = {
  ...GROUPED,
  ...DEEPSEEK,
  q_lora_rank: 12,
  kv_lora_rank: 16,
  qk_nope_head_dim: 8,
  qk_rope_head_dim: 4,
  v_head_dim: 10,
  n_group: 1,
  topk_group: 1,
};

export const SMALL: Readonly<Record<string, Config>> = {
  bloom: { model_type: 'bloom', vocab_size: 64, hidden_size: 32, n_layer: 2, n_head: 4 },
  gpt2: { model_type: 'gpt2', vocab_size: 64, n_embd: 32, n_layer: 2, n_head: 4, n_positions: 128 },
  gptj: {
    model_type: 'gptj',
    vocab_size: 64,
    n_embd: 32,
    n_layer: 2,
    n_head: 4,
    n_positions: 128,
    rotary_dim: 4,
  },
  gpt_neo: {
    model_type: 'gpt_neo',
    vocab_size: 64,
    hidden_size: 32,
    num_layers: 4,
    num_heads: 4,
    attention_types: [[['global', 'local'], 2]],
    window_size: 16,
    max_position_embeddings: 128,
  },
  gpt_neox: {
    model_type: 'gpt_neox',
    vocab_size: 64,
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    max_position_embeddings: 128,
    rope_parameters: { ...ROPE, partial_rotary_factor: 0.25 },
  },
  opt: {
    model_type: 'opt',
    vocab_size: 64,
    hidden_size: 32,
    ffn_dim: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    max_position_embeddings: 128,
    word_embed_proj_dim: 32,
  },
  llama: { model_type: 'llama', ...GROUPED },
  mistral: { model_type: 'mistral', ...GROUPED, sliding_window: 16 },
  qwen2: { model_type: 'qwen2', ...GROUPED, sliding_window: null, use_sliding_window: false },
  qwen3: { model_type: 'qwen3', ...GROUPED, head_dim: 16, sliding_window: null },
  mixtral: { model_type: 'mixtral', ...GROUPED, num_local_experts: 4, num_experts_per_tok: 2 },
  qwen3_moe: {
    model_type: 'qwen3_moe',
    ...GROUPED,
    head_dim: 16,
    moe_intermediate_size: 24,
    num_experts: 6,
    num_experts_per_tok: 3,
    norm_topk_prob: true,
  },
  gpt_oss: {
    model_type: 'gpt_oss',
    ...GROUPED,
    head_dim: 16,
    num_local_experts: 4,
    num_experts_per_tok: 2,
    sliding_window: 16,
  },
  falcon: {
    model_type: 'falcon',
    vocab_size: 64,
    hidden_size: 32,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    max_position_embeddings: 128,
    rope_parameters: ROPE,
  },
  phi3: { model_type: 'phi3', ...GROUPED, sliding_window: null },
  gemma2: { model_type: 'gemma2', ...GROUPED, head_dim: 16, query_pre_attn_scalar: 64, sliding_window: 16 },
  starcoder2: { model_type: 'starcoder2', ...GROUPED, sliding_window: null },
  cohere: { model_type: 'cohere', ...GROUPED },
  cohere2: { model_type: 'cohere2', ...GROUPED, sliding_window: 16 },
  exaone4: { model_type: 'exaone4', ...GROUPED, sliding_window: 16 },
  gemma: { model_type: 'gemma', ...GROUPED, head_dim: 16 },
  gemma3_text: {
    model_type: 'gemma3_text',
    ...GROUPED,
    head_dim: 16,
    sliding_window: 16,
    rope_parameters: BY_TYPE,
  },
  gemma4_text: {
    model_type: 'gemma4_text',
    ...GROUPED,
    head_dim: 16,
    global_head_dim: 24,
    num_kv_shared_layers: 1,
    hidden_size_per_layer_input: 8,
    vocab_size_per_layer_input: 64,
    layer_types: ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'],
    sliding_window: 16,
    rope_parameters: {
      ...BY_TYPE,
      full_attention: { rope_type: 'proportional', partial_rotary_factor: 0.25, rope_theta: 1e6 },
    },
  },
  glm: { model_type: 'glm', ...GROUPED, head_dim: 16 },
  glm4: { model_type: 'glm4', ...GROUPED, head_dim: 16 },
  gpt_bigcode: {
    model_type: 'gpt_bigcode',
    vocab_size: 64,
    n_embd: 32,
    n_layer: 2,
    n_head: 4,
    n_positions: 128,
  },
  granite: { model_type: 'granite', ...GROUPED, residual_multiplier: 0.25, logits_scaling: 8 },
  hunyuan_v1_dense: { model_type: 'hunyuan_v1_dense', ...GROUPED, head_dim: 16 },
  ministral3: {
    model_type: 'ministral3',
    ...GROUPED,
    head_dim: 16,
    rope_parameters: { ...ROPE, llama_4_scaling_beta: 0.1, original_max_position_embeddings: 32 },
  },
  mpt: { model_type: 'mpt', vocab_size: 64, d_model: 32, n_heads: 4, n_layers: 2, max_seq_len: 128 },
  nemotron: { model_type: 'nemotron', ...GROUPED, head_dim: 16 },
  olmo2: { model_type: 'olmo2', ...GROUPED },
  olmo3: { model_type: 'olmo3', ...GROUPED, sliding_window: 16, rope_parameters: BY_TYPE },
  phi: { model_type: 'phi', ...GROUPED },
  qwen2_moe: {
    model_type: 'qwen2_moe',
    ...GROUPED,
    moe_intermediate_size: 24,
    shared_expert_intermediate_size: 40,
    num_experts: 6,
    num_experts_per_tok: 3,
  },
  deepseek_v3: { model_type: 'deepseek_v3', ...LATENT },
  deepseek_v32: { model_type: 'deepseek_v32', ...LATENT },
  deepseek_v4: {
    model_type: 'deepseek_v4',
    vocab_size: 64,
    hidden_size: 32,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    head_dim: 16,
    q_lora_rank: 12,
    o_groups: 2,
    o_lora_rank: 10,
    moe_intermediate_size: 24,
    n_routed_experts: 8,
    num_experts_per_tok: 3,
    num_hash_layers: 1,
    layer_types: [
      'sliding_attention',
      'compressed_sparse_attention',
      'heavily_compressed_attention',
      'sliding_attention',
    ],
    compress_rates: { compressed_sparse_attention: 2, heavily_compressed_attention: 8 },
    sliding_window: 8,
    max_position_embeddings: 128,
    rope_parameters: {
      main: { ...ROPE, partial_rotary_factor: 0.5 },
      compress: { ...ROPE, rope_theta: 160000, partial_rotary_factor: 0.5 },
    },
  },
  glm4_moe: { model_type: 'glm4_moe', ...GROUPED, head_dim: 16, ...DEEPSEEK },
  dots1: { model_type: 'dots1', ...GROUPED, head_dim: 16, ...DEEPSEEK },
  minimax_m2: {
    model_type: 'minimax_m2',
    ...GROUPED,
    head_dim: 16,
    num_local_experts: 6,
    num_experts_per_tok: 3,
    rotary_dim: 8,
  },
  hy_v3: {
    model_type: 'hy_v3',
    ...GROUPED,
    head_dim: 16,
    moe_intermediate_size: 24,
    num_experts: 6,
    num_experts_per_tok: 3,
  },
  hunyuan_v1_moe: { model_type: 'hunyuan_v1_moe', ...GROUPED, head_dim: 16, num_experts: 4, moe_topk: 2 },
  ernie4_5: { model_type: 'ernie4_5', ...GROUPED, head_dim: 16 },
  ernie4_5_moe: {
    model_type: 'ernie4_5_moe',
    ...GROUPED,
    moe_intermediate_size: 24,
    moe_num_experts: 6,
    moe_k: 3,
  },
  olmoe: { model_type: 'olmoe', ...GROUPED, num_experts: 6, num_experts_per_tok: 3 },
  granitemoe: { model_type: 'granitemoe', ...GROUPED, num_local_experts: 6, num_experts_per_tok: 3 },
  phimoe: { model_type: 'phimoe', ...GROUPED, num_local_experts: 4, num_experts_per_tok: 2 },
  llama4_text: {
    model_type: 'llama4_text',
    ...GROUPED,
    head_dim: 16,
    intermediate_size_mlp: 64,
    num_local_experts: 4,
    num_experts_per_tok: 1,
    interleave_moe_layer_step: 2,
    attention_chunk_size: 16,
  },
  seed_oss: { model_type: 'seed_oss', ...GROUPED, head_dim: 16 },
  smollm3: { model_type: 'smollm3', ...GROUPED },
};

/** The small configuration of a family with some values replaced; `undefined` removes one. */
export function variant(family: string, changes: Config = {}): Config {
  const entries = Object.entries({ ...SMALL[family], ...changes });
  return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
}

export function build(family: string, changes: Config = {}): ArchitectureModel {
  return buildArchitecture(variant(family, changes), 'config.json');
}
