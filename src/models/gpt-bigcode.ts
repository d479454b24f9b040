// GPT-BigCode (Ben Allal et al. 2023: SantaCoder, StarCoder): GPT-2's block, whose heads may share one key and one value.

import { alikeCaches, heads, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import { embedTokensAndPositions, project } from './decoder-parts.js';

export const gptBigcode: Architecture = { modelTypes: ['gpt_bigcode'], build };

function build(config: ConfigReader): ArchitectureModel {
  config.refuseUnless(false, 'add_cross_attention');
  const H = config.count(['n_embd', 'hidden_size']);
  const nHeads = config.count(['n_head', 'num_attention_heads']);
  const V = config.count(['vocab_size']);
  const I = config.count(['n_inner'], 4 * H);
  const context = config.count(['n_positions', 'max_position_embeddings'], 1024);
  const D = config.divided(H, nHeads, 'n_embd over n_head');
  const shared = config.flag(['multi_query'], true);
  const nKv = shared ? 1 : nHeads;
  const fused = H + 2 * nKv * D;
  const blockCount = config.count(['n_layer', 'num_hidden_layers']);
  return {
    architecture: 'gpt_bigcode',
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: context,
    caches: alikeCaches(blockCount, nKv, D),
    blockCount,
    prefixes: ['transformer.'],
    tables: [
      { key: 'tokens', name: 'wte.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 },
      { key: 'positions', name: 'wpe.weight', shape: [context, H], rowsFrom: 'position', rowOffset: 0 },
    ],
    fixed: tensorsUnder('', { 'ln_f.weight': [H], 'ln_f.bias': [H] }),
    block: (index) =>
      tensorsUnder(`h.${index}.`, {
        'ln_1.weight': [H],
        'ln_1.bias': [H],
        'attn.c_attn.weight': [fused, H],
        'attn.c_attn.bias': [fused],
        'attn.c_proj.weight': [H, H],
        'attn.c_proj.bias': [H],
        'ln_2.weight': [H],
        'ln_2.bias': [H],
        'mlp.c_fc.weight': [I, H],
        'mlp.c_fc.bias': [I],
        'mlp.c_proj.weight': [H, I],
        'mlp.c_proj.bias': [H],
      }),
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: PLAIN_LOGITS,
    constants: {},
    forward: forward({
      nHeads,
      D,
      shared,
      eps: config.number(['layer_norm_epsilon'], 1e-5),
      activation: readActivation(config, ['activation_function'], 'gelu_pytorch_tanh'),
      scale: config.flag(['scale_attn_weights'], true) ? 1 / Math.sqrt(D) : 1,
    }),
  };
}

interface Dimensions {
  readonly nHeads: number;
  readonly D: number;
  /** All heads have one key and one value. */
  readonly shared: boolean;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
  readonly scale: number;
}

/** T tokens, H hidden size, D head dimension, I inner size. */
function forward({ nHeads, D, shared, eps, activation, scale }: Dimensions): LayerForward {
  return {
    embed: embedTokensAndPositions,

    block(k, w, x) {
      const normed = k.layerNorm(x, w('ln_1.weight'), w('ln_1.bias'), eps); // [T, H]
      const qkv = project(k, w, normed, 'attn.c_attn'); // [T, H + 2D], or a head's query, key and value side by side
      const of = (part: number) =>
        shared
          ? heads(qkv, part === 0 ? nHeads : 1, D, part === 0 ? 0 : (nHeads + part - 1) * D)
          : heads(qkv, nHeads, D, part * D, 3 * D);
      const attended = k.attention(of(0), of(1), of(2), { scale }); // [T, H]
      project(k, w, attended, 'attn.c_proj', x);

      const after = k.layerNorm(x, w('ln_2.weight'), w('ln_2.bias'), eps); // [T, H]
      const bias = w('mlp.c_fc.bias');
      const inner = k.linear(after, w.matrix('mlp.c_fc.weight'), { bias, activation }); // [T, I]
      project(k, w, inner, 'mlp.c_proj', x);
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('ln_f.weight'), w('ln_f.bias'), eps, out); // [R, H]
    },
  };
}
