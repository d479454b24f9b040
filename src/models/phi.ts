// Phi-1 to Phi-2 (Gunasekar et al. 2023): attention and feed-forward side by side behind one norm, biases everywhere, and
// a part of each head rotates.

import { alikeCaches, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import {
  attentionShapes,
  embedTokens,
  project,
  type QueryKeyNorm,
  type RotaryAttention,
  readGroupedHeads,
  separateAttention,
} from './decoder-parts.js';
import { sameRope } from './layer-ropes.js';
import { readRope } from './rope.js';

export const phi: Architecture = { modelTypes: ['phi'], build };

function build(config: ConfigReader): ArchitectureModel {
  const H = config.count(['hidden_size']);
  const I = config.count(['intermediate_size']);
  const V = config.count(['vocab_size']);
  const grouped = readGroupedHeads(config, H);
  const { nHeads, nKv, D } = grouped;
  const eps = config.number(['layer_norm_eps'], 1e-5);
  const partNames = ['partial_rotary_factor'];
  const ropes = sameRope(readRope(config, { headDim: D, defaultContext: 2048, partNames, defaultPart: 0.5 }));
  const queryKeyNorm: QueryKeyNorm | undefined = config.flag(['qk_layernorm'], false)
    ? { over: 'head', centered: true, eps, names: ['self_attn.q_layernorm', 'self_attn.k_layernorm'] }
    : undefined;
  const headNorm = queryKeyNorm ? [D] : undefined;
  const {
    'self_attn.o_proj.weight': _,
    'self_attn.o_proj.bias': __,
    ...projections
  } = attentionShapes(H, grouped, { qkv: true, out: true });
  const blockCount = config.count(['num_hidden_layers']);
  return {
    architecture: 'phi',
    hiddenSize: H,
    vocabSize: V,
    ...ropes.limits,
    caches: alikeCaches(blockCount, nKv, D),
    blockCount,
    prefixes: ['model.'],
    tables: [{ key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'final_layernorm.weight': [H], 'final_layernorm.bias': [H] }),
    block: (index) =>
      tensorsUnder(`layers.${index}.`, {
        'input_layernorm.weight': [H],
        'input_layernorm.bias': [H],
        ...projections,
        'self_attn.q_layernorm.weight': headNorm,
        'self_attn.q_layernorm.bias': headNorm,
        'self_attn.k_layernorm.weight': headNorm,
        'self_attn.k_layernorm.bias': headNorm,
        'self_attn.dense.weight': [H, nHeads * D],
        'self_attn.dense.bias': [H],
        'mlp.fc1.weight': [I, H],
        'mlp.fc1.bias': [I],
        'mlp.fc2.weight': [H, I],
        'mlp.fc2.bias': [H],
      }),
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      bias: { key: 'bias', name: 'lm_head.bias', shape: [V] },
      tied: config.flag(['tie_word_embeddings'], false),
    },
    logits: PLAIN_LOGITS,
    constants: ropes.constants,
    forward: forward({
      attention: {
        ...grouped,
        scale: 1 / Math.sqrt(D),
        ropeOf: ropes.of,
        windowTokens: () => 0,
        queryKeyNorm,
      },
      eps,
      activation: readActivation(config, ['hidden_act'], 'gelu_new'),
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
      const normed = k.layerNorm(x, w('input_layernorm.weight'), w('input_layernorm.bias'), eps); // [T, H], for both halves
      const attended = separateAttention(k, w, normed, attention, blockIndex); // [T, nHeads · D]
      project(k, w, attended, 'self_attn.dense', x);
      const inner = k.linear(normed, w.matrix('mlp.fc1.weight'), { bias: w('mlp.fc1.bias'), activation }); // [T, I]
      project(k, w, inner, 'mlp.fc2', x);
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('final_layernorm.weight'), w('final_layernorm.bias'), eps, out); // [R, H]
    },
  };
}
