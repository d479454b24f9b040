// GPT-NeoX (Black et al. 2022): partial rotary positions, fused interleaved QKV, attention beside the feed-forward.

import { alikeCaches, heads, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import { embedTokens, project, type RotaryAttention, rotateAndAttend } from './decoder-parts.js';
import { sameRope } from './layer-ropes.js';
import { readRope } from './rope.js';

export const gptNeox: Architecture = { modelTypes: ['gpt_neox'], isShareable: true, build };

function build(config: ConfigReader): ArchitectureModel {
  const H = config.count(['hidden_size']);
  const I = config.shared(config.count(['intermediate_size']), 'intermediate_size');
  const V = config.count(['vocab_size']);
  const allHeads = config.count(['num_attention_heads']);
  const nHeads = config.shared(allHeads, 'num_attention_heads');
  const D = config.divided(H, allHeads, 'hidden_size over num_attention_heads');
  const attentionBias = config.flag(['attention_bias'], true);
  const ropes = sameRope(
    readRope(config, {
      headDim: D,
      defaultContext: 2048,
      baseNames: ['rotary_emb_base'],
      partNames: ['rotary_pct'],
      foreignNames: { base: 'rope_theta', part: 'partial_rotary_factor' },
      defaultPart: 0.25,
    }),
  );
  const blockCount = config.count(['num_hidden_layers']);
  return {
    architecture: 'gpt_neox',
    hiddenSize: H,
    vocabSize: V,
    ...ropes.limits,
    caches: alikeCaches(blockCount, nHeads, D),
    blockCount,
    prefixes: ['gpt_neox.'],
    tables: [{ key: 'tokens', name: 'embed_in.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'final_layer_norm.weight': [H], 'final_layer_norm.bias': [H] }),
    block: (index) =>
      tensorsUnder(`layers.${index}.`, {
        'input_layernorm.weight': [H],
        'input_layernorm.bias': [H],
        'attention.query_key_value.weight': [3 * nHeads * D, H],
        'attention.query_key_value.bias': attentionBias ? [3 * nHeads * D] : undefined,
        'attention.dense.weight': [H, nHeads * D],
        'attention.dense.bias': attentionBias ? [H] : undefined,
        'post_attention_layernorm.weight': [H],
        'post_attention_layernorm.bias': [H],
        'mlp.dense_h_to_4h.weight': [I, H],
        'mlp.dense_h_to_4h.bias': [I],
        'mlp.dense_4h_to_h.weight': [H, I],
        'mlp.dense_4h_to_h.bias': [H],
      }),
    head: {
      projection: {
        ...{ key: 'projection', name: 'embed_out.weight', shape: [V, H] },
        elsewhere: [{ name: 'lm_head.weight', shape: [V, H], firstElement: 0 }],
      },
      tied: config.flag(['tie_word_embeddings'], false),
    },
    logits: PLAIN_LOGITS,
    constants: ropes.constants,
    forward: forward({
      attention: {
        nHeads,
        nKv: nHeads,
        D,
        scale: 1 / Math.sqrt(D),
        ropeOf: ropes.of,
        windowTokens: () => 0,
      },
      parallel: config.flag(['use_parallel_residual'], true),
      eps: config.number(['layer_norm_eps'], 1e-5),
      activation: readActivation(config, ['hidden_act'], 'gelu'),
    }),
  };
}

interface Dimensions {
  readonly attention: RotaryAttention;
  /** The feed-forward reads the block's input, not the attention's output. */
  readonly parallel: boolean;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
}

/** T tokens, H hidden size, D head dimension, I inner size. */
function forward({ attention, parallel, eps, activation }: Dimensions): LayerForward {
  const { nHeads, D } = attention;
  return {
    embed: embedTokens,

    block(k, w, x, blockIndex) {
      const normAfter = () =>
        k.layerNorm(x, w('post_attention_layernorm.weight'), w('post_attention_layernorm.bias'), eps); // [T, H]
      const normed = k.layerNorm(x, w('input_layernorm.weight'), w('input_layernorm.bias'), eps); // [T, H]
      const beside = parallel ? normAfter() : undefined;
      const qkv = project(k, w, normed, 'attention.query_key_value'); // [T, nHeads · (q, k, v) · D]
      const part = (index: number) => heads(qkv, nHeads, D, index * D, 3 * D); // [T, nHeads, D]
      const attended = rotateAndAttend(k, [part(0), part(1), part(2)], attention, blockIndex); // [T, nHeads · D]
      project(k, w, attended, 'attention.dense', x);

      const inner = k.linear(beside ?? normAfter(), w.matrix('mlp.dense_h_to_4h.weight'), {
        bias: w('mlp.dense_h_to_4h.bias'),
        activation,
      }); // [T, I]
      project(k, w, inner, 'mlp.dense_4h_to_h', x);
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('final_layer_norm.weight'), w('final_layer_norm.bias'), eps, out); // [R, H]
    },
  };
}
