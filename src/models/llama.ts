// Llama (Touvron et al. 2023): RMS norm, rotary positions, grouped-query attention, gated feed-forward.

import { heads, type LayerForward } from '../../offload/index.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import type { ConfigReader } from './config-reader.js';
import { readRope } from './rope.js';

export const llama: Architecture = { modelTypes: ['llama'], build };

function build(config: ConfigReader): ArchitectureModel {
  const H = config.count(['hidden_size']);
  const I = config.count(['intermediate_size']);
  const V = config.count(['vocab_size']);
  const nHeads = config.count(['num_attention_heads']);
  const nKv = config.count(['num_key_value_heads'], nHeads);
  const D =
    config.optionalCount(['head_dim']) ?? config.divided(H, nHeads, 'hidden_size over num_attention_heads');
  config.divided(nHeads, nKv, 'num_attention_heads over num_key_value_heads');
  const attentionBias = config.flag(['attention_bias'], false);
  const mlpBias = config.flag(['mlp_bias'], false);
  const rope = readRope(config, D);
  return {
    architecture: 'llama',
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: config.count(['max_position_embeddings'], 2048),
    kvHeads: nKv,
    headDim: D,
    blockCount: config.count(['num_hidden_layers']),
    prefixes: ['model.'],
    tables: [{ key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'norm.weight': [H] }),
    block: (index) =>
      tensorsUnder(`layers.${index}.`, {
        'input_layernorm.weight': [H],
        'self_attn.q_proj.weight': [nHeads * D, H],
        'self_attn.q_proj.bias': attentionBias ? [nHeads * D] : undefined,
        'self_attn.k_proj.weight': [nKv * D, H],
        'self_attn.k_proj.bias': attentionBias ? [nKv * D] : undefined,
        'self_attn.v_proj.weight': [nKv * D, H],
        'self_attn.v_proj.bias': attentionBias ? [nKv * D] : undefined,
        'self_attn.o_proj.weight': [H, nHeads * D],
        'self_attn.o_proj.bias': attentionBias ? [H] : undefined,
        'post_attention_layernorm.weight': [H],
        'mlp.gate_proj.weight': [I, H],
        'mlp.gate_proj.bias': mlpBias ? [I] : undefined,
        'mlp.up_proj.weight': [I, H],
        'mlp.up_proj.bias': mlpBias ? [I] : undefined,
        'mlp.down_proj.weight': [H, I],
        'mlp.down_proj.bias': mlpBias ? [H] : undefined,
      }),
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], false),
    },
    logits: PLAIN_LOGITS,
    constants: { inverse_frequencies: rope.inverseFrequencies },
    forward: forward({
      nHeads,
      nKv,
      D,
      eps: config.number(['rms_norm_eps'], 1e-6),
      activation: readActivation(config, ['hidden_act'], 'silu'),
      ropeScale: rope.scale,
    }),
  };
}

interface Dimensions {
  readonly nHeads: number;
  readonly nKv: number;
  readonly D: number;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
  readonly ropeScale: number;
}

/** T tokens, H hidden size, D head dimension, I inner size. */
function forward({ nHeads, nKv, D, eps, activation, ropeScale }: Dimensions): LayerForward {
  return {
    embed(k, _w, rows, x) {
      const { table, rows: indices } = rows('tokens');
      k.gather(x, table, indices); // [T, H]
    },

    block(k, w, x) {
      const project = (from: typeof x, name: string) =>
        k.linear(from, w(`${name}.weight`), { bias: w.optional(`${name}.bias`) });
      const addProjected = (from: typeof x, name: string) =>
        k.linear(from, w(`${name}.weight`), { bias: w.optional(`${name}.bias`), addTo: x });

      const normed = k.rmsNorm(x, w('input_layernorm.weight'), eps); // [T, H]
      const q = heads(project(normed, 'self_attn.q_proj'), nHeads, D); // [T, nHeads, D]
      const key = heads(project(normed, 'self_attn.k_proj'), nKv, D); // [T, nKv, D]
      const value = heads(project(normed, 'self_attn.v_proj'), nKv, D); // [T, nKv, D]
      const frequencies = k.constant('inverse_frequencies'); // [D / 2]
      k.rotary(q, frequencies, { scale: ropeScale });
      k.rotary(key, frequencies, { scale: ropeScale });
      const attended = k.attention(q, key, value, { scale: 1 / Math.sqrt(D) }); // [T, nHeads · D]
      addProjected(attended, 'self_attn.o_proj');

      const after = k.rmsNorm(x, w('post_attention_layernorm.weight'), eps); // [T, H]
      const inner = k.gated(project(after, 'mlp.gate_proj'), project(after, 'mlp.up_proj'), activation); // [T, I]
      addProjected(inner, 'mlp.down_proj');
    },

    headInput(k, w, x, out) {
      k.rmsNorm(x, w('norm.weight'), eps, 0, out); // [R, H]
    },
  };
}
