// The tensors of DeepSeek-V4 under their published names, under those of transformers, and under what that saves.

import type { TensorDef } from './architecture.js';

/** What others call a module or a tensor of the published names. */
const OTHERS: readonly (readonly [RegExp, readonly string[]])[] = [
  [/^embed\./, ['embed_tokens.']],
  [/^head\./, ['lm_head.']],
  [/^hc_head_/, ['hc_head.hc_']],
  [/^attn_norm\./, ['input_layernorm.']],
  [/^ffn_norm\./, ['post_attention_layernorm.']],
  [/^hc_attn_/, ['attn_hc.']],
  [/^hc_ffn_/, ['ffn_hc.']],
  [/^attn\.attn_sink$/, ['self_attn.sinks']],
  [/^attn\.wq_a\./, ['self_attn.q_a_proj.']],
  [/^attn\.q_norm\./, ['self_attn.q_a_norm.']],
  [/^attn\.wq_b\./, ['self_attn.q_b_proj.']],
  [/^attn\.wkv\./, ['self_attn.kv_proj.']],
  // transformers 5.17 saves it so.
  [/^attn\.kv_norm\./, ['attn.norm.', 'self_attn.kv_norm.']],
  [/^attn\.wo_a\./, ['self_attn.o_a_proj.']],
  [/^attn\.wo_b\./, ['self_attn.o_b_proj.']],
  [/^attn\.compressor\.wkv\./, ['self_attn.compressor.kv_proj.']],
  [/^attn\.compressor\.wgate\./, ['self_attn.compressor.gate_proj.']],
  [/^attn\.compressor\.ape$/, ['self_attn.compressor.position_bias']],
  [/^attn\.compressor\.norm\./, ['self_attn.compressor.kv_norm.']],
  [/^ffn\.gate\.bias$/, ['mlp.gate.e_score_correction_bias']],
  [/^ffn\.shared_experts\.w1\./, ['mlp.shared_experts.gate_proj.']],
  [/^ffn\.shared_experts\.w3\./, ['mlp.shared_experts.up_proj.']],
  [/^ffn\.shared_experts\.w2\./, ['mlp.shared_experts.down_proj.']],
  [/^ffn\.gate\./, ['mlp.gate.']],
];

/** A tensor below `path`, whose key is its published name. */
export function spelt(path: string, key: string, shape: readonly number[]): TensorDef {
  const [pattern, others = []] = OTHERS.find(([published]) => published.test(key)) ?? [];
  const names = pattern ? others.map((other) => key.replace(pattern, other)) : [];
  const elsewhere = names.map((name) => ({ name: `${path}${name}`, shape, firstElement: 0 }));
  return { key, name: `${path}${key}`, shape, elsewhere };
}

/** What nothing is multiplied with as a matrix, however many dimensions it has. */
export function speltVector(path: string, key: string, shape: readonly number[]): TensorDef {
  return { ...spelt(path, key, shape), isBias: true };
}
