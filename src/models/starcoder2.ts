// StarCoder2 (Lozhkov et al. 2024): rotary grouped-query attention with biases, layer norm, plain feed-forward.

import { alikeCaches, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import {
  attentionShapes,
  embedTokens,
  project,
  type RotaryAttention,
  readGroupedHeads,
  separateAttention,
} from './decoder-parts.js';
import { sameRope } from './layer-ropes.js';
import { readLayerWindows } from './layer-windows.js';
import { readRope } from './rope.js';

export const starcoder2: Architecture = { modelTypes: ['starcoder2'], isShareable: true, build };

function build(config: ConfigReader): ArchitectureModel {
  config.refuseUnless('default', 'mlp_type');
  config.refuseUnless('layer_norm', 'norm_type');
  const H = config.count(['hidden_size']);
  const I = config.shared(config.count(['intermediate_size']), 'intermediate_size');
  const V = config.count(['vocab_size']);
  const blockCount = config.count(['num_hidden_layers']);
  const grouped = readGroupedHeads(config, H);
  const { nKv, D } = grouped;
  const bias = config.flag(['use_bias'], true);
  const ropes = sameRope(readRope(config, { headDim: D, defaultContext: 4096 }));
  const windowTokens = readLayerWindows(config, blockCount, () => config.raw('sliding_window') !== undefined);
  return {
    architecture: 'starcoder2',
    hiddenSize: H,
    vocabSize: V,
    ...ropes.limits,
    caches: alikeCaches(blockCount, nKv, D, { windowTokens }),
    blockCount,
    prefixes: ['model.'],
    tables: [{ key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'norm.weight': [H], 'norm.bias': [H] }),
    block: (index) =>
      tensorsUnder(`layers.${index}.`, {
        'input_layernorm.weight': [H],
        'input_layernorm.bias': [H],
        ...attentionShapes(H, grouped, { qkv: bias, out: bias }),
        'post_attention_layernorm.weight': [H],
        'post_attention_layernorm.bias': [H],
        'mlp.c_fc.weight': [I, H],
        'mlp.c_fc.bias': bias ? [I] : undefined,
        'mlp.c_proj.weight': [H, I],
        'mlp.c_proj.bias': bias ? [H] : undefined,
      }),
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: PLAIN_LOGITS,
    constants: ropes.constants,
    forward: forward({
      attention: {
        ...grouped,
        scale: 1 / Math.sqrt(D),
        ropeOf: ropes.of,
        windowTokens,
      },
      eps: config.number(['norm_epsilon'], 1e-5),
      activation: readActivation(config, ['hidden_act'], 'gelu_pytorch_tanh'),
    }),
  };
}

interface Dimensions {
  readonly attention: RotaryAttention;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
}

/** T tokens, H hidden size, D head dimension, I inner size. */
function forward({ attention, eps, activation }: Dimensions): LayerForward {
  return {
    embed: embedTokens,

    block(k, w, x, blockIndex) {
      const normed = k.layerNorm(x, w('input_layernorm.weight'), w('input_layernorm.bias'), eps); // [T, H]
      const attended = separateAttention(k, w, normed, attention, blockIndex); // [T, nHeads · D]
      project(k, w, attended, 'self_attn.o_proj', x);

      const [weight, bias] = [w('post_attention_layernorm.weight'), w('post_attention_layernorm.bias')];
      const after = k.layerNorm(x, weight, bias, eps); // [T, H]
      const inner = k.linear(after, w.matrix('mlp.c_fc.weight'), {
        bias: w.optional('mlp.c_fc.bias'),
        activation,
      }); // [T, I]
      project(k, w, inner, 'mlp.c_proj', x);
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('norm.weight'), w('norm.bias'), eps, out); // [R, H]
    },
  };
}
