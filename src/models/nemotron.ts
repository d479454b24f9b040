// Nemotron-4 and Minitron (Parmar et al. 2024): layer norms stored as their distance from one, half of each head rotates,
// and the feed-forward squares what is positive.

import { alikeCaches, type LayerForward, type Tensor } from '../../offload/index.js';
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
import { readRope } from './rope.js';

export const nemotron: Architecture = { modelTypes: ['nemotron'], isShareable: true, build };

function build(config: ConfigReader): ArchitectureModel {
  const H = config.count(['hidden_size']);
  const I = config.shared(config.count(['intermediate_size']), 'intermediate_size');
  const V = config.count(['vocab_size']);
  const grouped = readGroupedHeads(config, H);
  const { nKv, D } = grouped;
  const bias = config.flag(['attention_bias'], false);
  const mlpBias = config.flag(['mlp_bias'], false);
  // The first releases named the part otherwise.
  const partNames = ['partial_rotary_factor', 'rope_percent'];
  const ropes = sameRope(readRope(config, { headDim: D, defaultContext: 4096, partNames, defaultPart: 0.5 }));
  const blockCount = config.count(['num_hidden_layers']);
  return {
    architecture: 'nemotron',
    hiddenSize: H,
    vocabSize: V,
    ...ropes.limits,
    caches: alikeCaches(blockCount, nKv, D),
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
    constants: ropes.constants,
    forward: forward({
      attention: { ...grouped, scale: 1 / Math.sqrt(D), ropeOf: ropes.of, windowTokens: () => 0 },
      eps: config.number(['norm_eps'], 1e-5),
      activation: readActivation(config, ['hidden_act'], 'relu2'),
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
      const norm = (name: string): Tensor =>
        k.layerNormFromOne(x, { weight: w(`${name}.weight`), bias: w(`${name}.bias`), eps }); // [T, H]
      const attended = separateAttention(k, w, norm('input_layernorm'), attention, blockIndex); // [T, nHeads · D]
      project(k, w, attended, 'self_attn.o_proj', x);
      const bias = w.optional('mlp.up_proj.bias');
      const after = norm('post_attention_layernorm'); // [T, H]
      const inner = k.linear(after, w.matrix('mlp.up_proj.weight'), { bias, activation }); // [T, I]
      project(k, w, inner, 'mlp.down_proj', x);
    },

    headInput(k, w, x, out) {
      k.layerNormFromOne(x, { weight: w('norm.weight'), bias: w('norm.bias'), eps, out }); // [R, H]
    },
  };
}
