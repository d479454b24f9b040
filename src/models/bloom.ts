// BLOOM (Le Scao et al. 2022): fused interleaved QKV, ALiBi, a norm after the embedding, head tied to the embedding.

import { alikeCaches, heads, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { alibiSlopes } from './alibi.js';
import {
  type Architecture,
  type ArchitectureModel,
  ofDevice,
  PLAIN_LOGITS,
  tensorsUnder,
} from './architecture.js';

export const bloom: Architecture = { modelTypes: ['bloom'], isShareable: true, build };

function build(config: ConfigReader): ArchitectureModel {
  const H = config.count(['hidden_size', 'n_embed']);
  const allHeads = config.count(['n_head', 'num_attention_heads']);
  const nHeads = config.shared(allHeads, 'n_head');
  const V = config.count(['vocab_size']);
  const D = config.divided(H, allHeads, 'hidden_size over n_head');
  const I = config.shared(4 * H, '4 · hidden_size');
  const eps = config.number(['layer_norm_epsilon'], 1e-5);
  const residualAfterNorm = config.flag(['apply_residual_connection_post_layernorm'], false);
  // The reference then multiplies slices of the weights and leaves the biases out.
  if (config.count(['pretraining_tp'], 1) > 1) config.refuseUnless(false, 'slow_but_exact');
  const embedding = { key: 'tokens', name: 'word_embeddings.weight', shape: [V, H] };
  const blockCount = config.count(['n_layer', 'num_hidden_layers']);
  return {
    architecture: 'bloom',
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: undefined, // ALiBi has no positions to run out of
    caches: alikeCaches(blockCount, nHeads, D),
    blockCount,
    prefixes: ['transformer.'],
    tables: [{ ...embedding, rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', {
      'word_embeddings_layernorm.weight': [H],
      'word_embeddings_layernorm.bias': [H],
      'ln_f.weight': [H],
      'ln_f.bias': [H],
    }),
    block: (index) =>
      tensorsUnder(`h.${index}.`, {
        'input_layernorm.weight': [H],
        'input_layernorm.bias': [H],
        'self_attention.query_key_value.weight': [nHeads * 3 * D, H],
        'self_attention.query_key_value.bias': [nHeads * 3 * D],
        'self_attention.dense.weight': [H, nHeads * D],
        'self_attention.dense.bias': [H],
        'post_attention_layernorm.weight': [H],
        'post_attention_layernorm.bias': [H],
        'mlp.dense_h_to_4h.weight': [I, H],
        'mlp.dense_h_to_4h.bias': [I],
        'mlp.dense_4h_to_h.weight': [H, I],
        'mlp.dense_4h_to_h.bias': [H],
      }),
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: PLAIN_LOGITS,
    constants: { alibi: ofDevice(alibiSlopes(allHeads), config.share) },
    forward: forward({ nHeads, D, eps, residualAfterNorm }),
  };
}

interface Dimensions {
  readonly nHeads: number;
  readonly D: number;
  readonly eps: number;
  readonly residualAfterNorm: boolean;
}

/** T tokens, H hidden size, D head dimension. */
function forward({ nHeads, D, eps, residualAfterNorm }: Dimensions): LayerForward {
  return {
    embed(k, w, rows, x) {
      const { table, rows: indices } = rows('tokens');
      const embedded = k.gather(k.empty(x.shape), table, indices); // [T, H]
      k.layerNorm(
        embedded,
        w('word_embeddings_layernorm.weight'),
        w('word_embeddings_layernorm.bias'),
        eps,
        x,
      );
    },

    block(k, w, x) {
      // The norm's output is the residual where the checkpoint says so: then it replaces x.
      const residual = residualAfterNorm ? x : undefined;
      const normed = k.layerNorm(x, w('input_layernorm.weight'), w('input_layernorm.bias'), eps, residual); // [T, H]
      const qkv = k.linear(normed, w.matrix('self_attention.query_key_value.weight'), {
        bias: w('self_attention.query_key_value.bias'),
      }); // [T, nHeads · (q, k, v) · D]
      const part = (index: number) => heads(qkv, nHeads, D, index * D, 3 * D); // [T, nHeads, D]
      const attended = k.attention(part(0), part(1), part(2), {
        scale: 1 / Math.sqrt(D),
        alibi: { slopes: k.constant('alibi') },
      }); // [T, nHeads · D]
      k.linear(attended, w.matrix('self_attention.dense.weight'), {
        bias: w('self_attention.dense.bias'),
        addTo: x,
      });

      const after = k.layerNorm(
        x,
        w('post_attention_layernorm.weight'),
        w('post_attention_layernorm.bias'),
        eps,
        residual,
      ); // [T, H]
      const inner = k.linear(after, w.matrix('mlp.dense_h_to_4h.weight'), {
        bias: w('mlp.dense_h_to_4h.bias'),
        activation: 'gelu_tanh',
      }); // [T, I]
      k.linear(inner, w.matrix('mlp.dense_4h_to_h.weight'), { bias: w('mlp.dense_4h_to_h.bias'), addTo: x });
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('ln_f.weight'), w('ln_f.bias'), eps, out); // [R, H]
    },
  };
}
