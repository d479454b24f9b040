// MPT (MosaicML 2023): ALiBi with slopes of its own, fused projections that may be clamped, no biases at all.

import { alikeCaches, columns, heads, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { mptSlopes } from './alibi.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import { embedTokens, project } from './decoder-parts.js';

export const mpt: Architecture = { modelTypes: ['mpt'], build };

/** How much wider the feed-forward is, and the steepest slope's logarithm; the reference takes no others. */
const EXPANSION = 4;
const ALIBI_MOST = 8;
/** The reference has biases for positions so far. */
const DEFAULT_CONTEXT = 2048;

function build(config: ConfigReader): ArchitectureModel {
  config.refuseUnless(true, 'no_bias');
  config.refuseUnless(EXPANSION, 'expansion_ratio');
  config.refuseUnless(null, 'logit_scale', 'ffn_config', 'fc_type');
  const normType = config.text(['norm_type'], 'low_precision_layernorm');
  if (!/^(low_precision_)?layernorm$/.test(normType))
    throw config.unsupported('norm_type', normType, 'layernorm, low_precision_layernorm');
  const attention = config.object('attn_config');
  attention?.refuseUnless('multihead_attention', 'attn_type');
  attention?.refuseUnless(false, 'qk_ln', 'qk_gn', 'prefix_lm', 'rope');
  attention?.refuseUnless(true, 'alibi');
  attention?.refuseUnless(-1, 'sliding_window_size');
  attention?.refuseUnless(ALIBI_MOST, 'alibi_bias_max');
  const H = config.count(['d_model', 'hidden_size']);
  const nHeads = config.count(['n_heads', 'num_attention_heads']);
  const V = config.count(['vocab_size']);
  const D = config.divided(H, nHeads, 'd_model over n_heads');
  const blockCount = config.count(['n_layers', 'num_hidden_layers']);
  return {
    architecture: 'mpt',
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: config.count(['max_seq_len'], DEFAULT_CONTEXT),
    caches: alikeCaches(blockCount, nHeads, D),
    blockCount,
    prefixes: ['transformer.'],
    tables: [{ key: 'tokens', name: 'wte.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'norm_f.weight': [H] }),
    block: (index) =>
      tensorsUnder(`blocks.${index}.`, {
        'norm_1.weight': [H],
        'attn.Wqkv.weight': [3 * H, H],
        'attn.out_proj.weight': [H, H],
        'norm_2.weight': [H],
        'ffn.up_proj.weight': [EXPANSION * H, H],
        'ffn.down_proj.weight': [H, EXPANSION * H],
      }),
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: PLAIN_LOGITS,
    constants: { alibi: mptSlopes(nHeads, ALIBI_MOST) },
    forward: forward({
      nHeads,
      D,
      eps: config.number(['layer_norm_epsilon'], 1e-5),
      scale: attention?.optionalNumber(['softmax_scale']) ?? 1 / Math.sqrt(D),
      limit: attention?.number(['clip_qkv'], 0) ?? 0,
    }),
  };
}

interface Dimensions {
  readonly nHeads: number;
  readonly D: number;
  readonly eps: number;
  readonly scale: number;
  /** Largest magnitude of queries, keys and values; 0 for any. */
  readonly limit: number;
}

/** T tokens, H hidden size, D head dimension. */
function forward({ nHeads, D, eps, scale, limit }: Dimensions): LayerForward {
  const H = nHeads * D;
  return {
    embed: embedTokens,

    block(k, w, x) {
      const normed = k.layerNorm(x, w('norm_1.weight'), null, eps); // [T, H]
      const qkv = project(k, w, normed, 'attn.Wqkv'); // [T, 3H]
      if (limit > 0) k.clamp(qkv, limit);
      const part = (index: number) => heads(columns(qkv, index * H, H), nHeads, D); // [T, nHeads, D]
      const alibi = { slopes: k.constant('alibi') };
      const attended = k.attention(part(0), part(1), part(2), { scale, alibi }); // [T, H]
      project(k, w, attended, 'attn.out_proj', x);

      const after = k.layerNorm(x, w('norm_2.weight'), null, eps); // [T, H]
      const inner = k.linear(after, w.matrix('ffn.up_proj.weight'), { activation: 'gelu' }); // [T, 4H]
      project(k, w, inner, 'ffn.down_proj', x);
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('norm_f.weight'), null, eps, out); // [R, H]
    },
  };
}
