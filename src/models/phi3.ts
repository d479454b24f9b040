// Phi-3 (Abdin et al. 2024): Llama's block with fused projections; part of a head may rotate.

import { alikeCaches, columns, heads, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import {
  type Architecture,
  type ArchitectureModel,
  inSections,
  PLAIN_LOGITS,
  tensorsUnder,
} from './architecture.js';
import { embedTokens, type RotaryAttention, readGroupedHeads, rotateAndAttend } from './decoder-parts.js';
import { sameRope } from './layer-ropes.js';
import { readLayerWindows } from './layer-windows.js';
import { readRope } from './rope.js';

export const phi3: Architecture = { modelTypes: ['phi3'], isShareable: true, build };

function build(config: ConfigReader): ArchitectureModel {
  config.refuseUnless(false, 'attention_bias', 'mlp_bias');
  const H = config.count(['hidden_size']);
  const I = config.shared(config.count(['intermediate_size']), 'intermediate_size');
  const V = config.count(['vocab_size']);
  const blockCount = config.count(['num_hidden_layers']);
  const grouped = readGroupedHeads(config, H);
  const { nHeads, nKv, D } = grouped;
  const ropes = sameRope(
    readRope(config, {
      headDim: D,
      defaultContext: 4096,
      partNames: ['partial_rotary_factor'],
      defaultTrained: 4096,
    }),
  );
  const windowTokens = readLayerWindows(config, blockCount, () => config.raw('sliding_window') !== undefined);
  const sections = {
    'self_attn.qkv_proj.weight': [nHeads * D, nKv * D, nKv * D],
    'mlp.gate_up_proj.weight': [I, I],
  };
  return {
    architecture: 'phi3',
    hiddenSize: H,
    vocabSize: V,
    ...ropes.limits,
    caches: alikeCaches(blockCount, nKv, D, { windowTokens }),
    blockCount,
    prefixes: ['model.'],
    tables: [{ key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'norm.weight': [H] }),
    block: (index) => {
      const tensors = tensorsUnder(`layers.${index}.`, {
        'input_layernorm.weight': [H],
        'self_attn.qkv_proj.weight': [(nHeads + 2 * nKv) * D, H],
        'self_attn.o_proj.weight': [H, nHeads * D],
        'post_attention_layernorm.weight': [H],
        'mlp.gate_up_proj.weight': [2 * I, H],
        'mlp.down_proj.weight': [H, I],
      });
      return inSections(tensors, sections);
    },
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], false),
    },
    logits: PLAIN_LOGITS,
    constants: ropes.constants,
    forward: forward({
      I,
      attention: {
        ...grouped,
        scale: 1 / Math.sqrt(D),
        ropeOf: ropes.of,
        windowTokens,
      },
      eps: config.number(['rms_norm_eps'], 1e-5),
      activation: readActivation(config, ['hidden_act'], 'silu'),
    }),
  };
}

interface Dimensions {
  readonly I: number;
  readonly attention: RotaryAttention;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
}

/** T tokens, H hidden size, D head dimension, I inner size. */
function forward({ I, attention, eps, activation }: Dimensions): LayerForward {
  const { nHeads, nKv, D } = attention;
  return {
    embed: embedTokens,

    block(k, w, x, blockIndex) {
      const normed = k.rmsNorm(x, w('input_layernorm.weight'), eps); // [T, H]
      const qkv = k.linear(normed, w.matrix('self_attn.qkv_proj.weight')); // [T, (nHeads + 2 nKv) · D]
      const q = heads(qkv, nHeads, D); // [T, nHeads, D]
      const key = heads(qkv, nKv, D, nHeads * D); // [T, nKv, D]
      const value = heads(qkv, nKv, D, (nHeads + nKv) * D); // [T, nKv, D]
      const attended = rotateAndAttend(k, [q, key, value], attention, blockIndex); // [T, nHeads · D]
      k.linear(attended, w.matrix('self_attn.o_proj.weight'), { addTo: x });

      const after = k.rmsNorm(x, w('post_attention_layernorm.weight'), eps); // [T, H]
      const gateUp = k.linear(after, w.matrix('mlp.gate_up_proj.weight')); // [T, 2I]
      const inner = k.gated(columns(gateUp, 0, I), columns(gateUp, I, I), activation); // [T, I]
      k.linear(inner, w.matrix('mlp.down_proj.weight'), { addTo: x });
    },

    headInput(k, w, x, out) {
      k.rmsNorm(x, w('norm.weight'), eps, 0, out); // [R, H]
    },
  };
}
