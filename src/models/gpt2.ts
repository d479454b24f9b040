// GPT-2 (Radford et al. 2019): learned positions, weights stored [inputs, outputs], head tied to the embedding.

import { alikeCaches, columns, heads, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import {
  type Architecture,
  type ArchitectureModel,
  inputMajorUnder,
  inSections,
  PLAIN_LOGITS,
  tensorsUnder,
} from './architecture.js';
import { embedTokensAndPositions } from './decoder-parts.js';

export const gpt2: Architecture = { modelTypes: ['gpt2'], isShareable: true, build };

function build(config: ConfigReader): ArchitectureModel {
  const H = config.count(['n_embd', 'hidden_size']);
  const allHeads = config.count(['n_head', 'num_attention_heads']);
  const nHeads = config.shared(allHeads, 'n_head');
  const V = config.count(['vocab_size']);
  const I = config.shared(config.count(['n_inner'], 4 * H), 'n_inner');
  const context = config.count(['n_positions', 'max_position_embeddings'], 1024);
  const D = config.divided(H, allHeads, 'n_embd over n_head');
  const A = nHeads * D;
  if (config.flag(['add_cross_attention'], false))
    throw config.unsupported('add_cross_attention', true, 'false');
  const scaleWeights = config.flag(['scale_attn_weights'], true);
  const scaleByLayer = config.flag(['scale_attn_by_inverse_layer_idx'], false);
  const blockCount = config.count(['n_layer', 'num_hidden_layers']);
  return {
    architecture: 'gpt2',
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: context,
    caches: alikeCaches(blockCount, nHeads, D),
    blockCount,
    prefixes: ['transformer.'],
    tables: [
      { key: 'tokens', name: 'wte.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 },
      { key: 'positions', name: 'wpe.weight', shape: [context, H], rowsFrom: 'position', rowOffset: 0 },
    ],
    fixed: tensorsUnder('', { 'ln_f.weight': [H], 'ln_f.bias': [H] }),
    block: (index) => {
      const tensors = inputMajorUnder(`h.${index}.`, {
        'ln_1.weight': [H],
        'ln_1.bias': [H],
        'attn.c_attn.weight': [3 * A, H],
        'attn.c_attn.bias': [3 * A],
        'attn.c_proj.weight': [H, A],
        'attn.c_proj.bias': [H],
        'ln_2.weight': [H],
        'ln_2.bias': [H],
        'mlp.c_fc.weight': [I, H],
        'mlp.c_fc.bias': [I],
        'mlp.c_proj.weight': [H, I],
        'mlp.c_proj.bias': [H],
      });
      const sections = [A, A, A];
      return inSections(tensors, { 'attn.c_attn.weight': sections, 'attn.c_attn.bias': sections });
    },
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: PLAIN_LOGITS,
    constants: {},
    forward: forward({
      nHeads,
      D,
      eps: config.number(['layer_norm_epsilon'], 1e-5),
      activation: readActivation(config, ['activation_function'], 'gelu_new'),
      scale: (index) => (scaleWeights ? 1 / Math.sqrt(D) : 1) / (scaleByLayer ? index + 1 : 1),
    }),
  };
}

interface Dimensions {
  readonly nHeads: number;
  readonly D: number;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
  readonly scale: (blockIndex: number) => number;
}

/** T tokens, H hidden size, D head dimension, A those of all heads, I inner size. */
function forward({ nHeads, D, eps, activation, scale }: Dimensions): LayerForward {
  const A = nHeads * D;
  return {
    embed: embedTokensAndPositions,

    block(k, w, x, blockIndex) {
      const normed = k.layerNorm(x, w('ln_1.weight'), w('ln_1.bias'), eps); // [T, H]
      const qkv = k.linear(normed, w.matrix('attn.c_attn.weight'), {
        bias: w('attn.c_attn.bias'),
      }); // [T, 3A]
      const part = (index: number) => heads(columns(qkv, index * A, A), nHeads, D); // [T, nHeads, D]
      const attended = k.attention(part(0), part(1), part(2), { scale: scale(blockIndex) }); // [T, A]
      k.linear(attended, w.matrix('attn.c_proj.weight'), {
        bias: w('attn.c_proj.bias'),
        addTo: x,
      });

      const after = k.layerNorm(x, w('ln_2.weight'), w('ln_2.bias'), eps); // [T, H]
      const inner = k.linear(after, w.matrix('mlp.c_fc.weight'), {
        bias: w('mlp.c_fc.bias'),
        activation,
      }); // [T, I]
      k.linear(inner, w.matrix('mlp.c_proj.weight'), { bias: w('mlp.c_proj.bias'), addTo: x });
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('ln_f.weight'), w('ln_f.bias'), eps, out); // [R, H]
    },
  };
}
