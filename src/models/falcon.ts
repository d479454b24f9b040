// Falcon (Almazrouei et al. 2023): multi-query or grouped attention beside the feed-forward; early ones use ALiBi.

import { alikeCaches, type LayerForward } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { alibiSlopes } from './alibi.js';
import {
  type Architecture,
  type ArchitectureModel,
  inSections,
  ofDevice,
  PLAIN_LOGITS,
  tensorsUnder,
} from './architecture.js';
import { embedTokens, project, rotateAndAttend } from './decoder-parts.js';
import { type FusedHeads, splitFused } from './falcon-heads.js';
import { type LayerRopes, sameRope } from './layer-ropes.js';
import { readRope } from './rope.js';

/** The first releases called the 40B style `RefinedWeb` and the others `RefinedWebModel`. */
export const falcon: Architecture = {
  modelTypes: ['falcon', 'RefinedWeb', 'RefinedWebModel'],
  isShareable: true,
  build,
};

function build(config: ConfigReader): ArchitectureModel {
  config.refuseUnless(false, 'apply_residual_connection_post_layernorm');
  const H = config.count(['hidden_size', 'n_embed']);
  const allHeads = config.count(['num_attention_heads', 'n_head']);
  const nHeads = config.shared(allHeads, 'num_attention_heads');
  const V = config.count(['vocab_size']);
  const D = config.divided(H, allHeads, 'hidden_size over num_attention_heads');
  const I = config.shared(config.count(['ffn_hidden_size'], 4 * H), 'ffn_hidden_size');
  const layout = readLayout(config);
  const allKv = {
    groups: config.count(['num_kv_heads', 'n_head_kv'], allHeads),
    'multi-query': 1,
    heads: allHeads,
  }[layout];
  config.divided(allHeads, allKv, 'num_attention_heads over num_kv_heads');
  // Queries of a group lie beside its key and value, so devices share whole groups.
  const nKv =
    layout === 'groups' ? config.shared(allKv, 'num_kv_heads') : config.sharedKeyHeads(allKv, 'num_kv_heads');
  const namedKv = config.optionalCount(['num_kv_heads', 'n_head_kv']) ?? allHeads;
  if (layout === 'heads' && namedKv !== allHeads)
    throw config.unsupported(
      'num_kv_heads',
      namedKv,
      `${allHeads}, as many as num_attention_heads, without multi_query`,
    );
  const parallel = flagOrNull(config, 'parallel_attn', true);
  if (layout === 'groups' && !parallel)
    throw config.unsupported('parallel_attn', false, 'true with new_decoder_architecture');
  const normCount = layout === 'groups' ? config.count(['num_ln_in_parallel_attn'], 2) : parallel ? 1 : 2;
  if (normCount > 2) throw config.unsupported('num_ln_in_parallel_attn', normCount, '1, 2');
  const names = normNames(layout, normCount);
  const biased = flagOrNull(config, 'bias', false);
  const alibi = flagOrNull(config, 'alibi', false);
  const ropes = alibi ? undefined : sameRope(readRope(config, { headDim: D, defaultContext: 2048 }));
  const norms = names.flatMap((name) => [`${name}.weight`, `${name}.bias`]);
  const blockCount = config.count(['num_hidden_layers', 'n_layer']);
  // All query heads, then the key and the value that every device needs.
  const fusedSections = layout === 'multi-query' ? [nHeads * D, D, D] : undefined;
  return {
    architecture: 'falcon',
    hiddenSize: H,
    vocabSize: V,
    ...(ropes?.limits ?? { maxContextTokens: undefined }), // ALiBi has no positions to run out of
    caches: alikeCaches(blockCount, nKv, D),
    blockCount,
    prefixes: ['transformer.'],
    tables: [
      { key: 'tokens', name: 'word_embeddings.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 },
    ],
    fixed: tensorsUnder('', { 'ln_f.weight': [H], 'ln_f.bias': [H] }),
    block: (index) => {
      const tensors = tensorsUnder(`h.${index}.`, {
        ...Object.fromEntries(norms.map((name) => [name, [H]])),
        [`${FUSED}.weight`]: [(nHeads + 2 * nKv) * D, H],
        [`${FUSED}.bias`]: biased ? [(nHeads + 2 * nKv) * D] : undefined,
        'self_attention.dense.weight': [H, nHeads * D],
        'self_attention.dense.bias': biased ? [H] : undefined,
        'mlp.dense_h_to_4h.weight': [I, H],
        'mlp.dense_h_to_4h.bias': biased ? [I] : undefined,
        'mlp.dense_4h_to_h.weight': [H, I],
        'mlp.dense_4h_to_h.bias': biased ? [H] : undefined,
      });
      return inSections(tensors, { [`${FUSED}.weight`]: fusedSections, [`${FUSED}.bias`]: fusedSections });
    },
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: PLAIN_LOGITS,
    constants: ropes ? ropes.constants : { alibi: ofDevice(roundedSlopes(allHeads), config.share) },
    forward: forward({
      fused: { layout, nHeads, nKv, D },
      attentionNorm: names[0] ?? 'input_layernorm',
      mlpNorm: names[1],
      parallel,
      ropeOf: ropes?.of,
      eps: config.number(['layer_norm_epsilon'], 1e-5),
      activation: readActivation(config, ['activation'], 'gelu'),
    }),
  };
}

const FUSED = 'self_attention.query_key_value';

/** This family's flags may be null, which is false; absent ones have their default. */
function flagOrNull(config: ConfigReader, name: string, fallback: boolean): boolean {
  return config.flag([name], config.has(name) ? false : fallback);
}

function readLayout(config: ConfigReader): FusedHeads['layout'] {
  const isGrouped = flagOrNull(
    config,
    'new_decoder_architecture',
    config.text(['model_type']) === 'RefinedWeb',
  );
  if (isGrouped) return 'groups';
  return flagOrNull(config, 'multi_query', true) ? 'multi-query' : 'heads';
}

/** Norms of a block: that of the attention, then that of the feed-forward where it has its own. */
function normNames(layout: FusedHeads['layout'], count: number): string[] {
  if (count === 1) return ['input_layernorm'];
  return layout === 'groups' ? ['ln_attn', 'ln_mlp'] : ['input_layernorm', 'post_attention_layernorm'];
}

/**
 * Slopes, positions and biases have eight significant bits, and biases are added before scores are scaled, as the
 * model was trained, so that beyond 256 tokens neighbours may share a bias.
 */
function roundedSlopes(nHeads: number): Float32Array {
  return alibiSlopes(nHeads).map(roundToBf16);
}

function roundToBf16(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer);
  bits[0] = ((bits[0] ?? 0) + 0x7fff + (((bits[0] ?? 0) >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(bits.buffer)[0] ?? 0;
}

interface Dimensions {
  readonly fused: FusedHeads;
  readonly attentionNorm: string;
  /** Undefined where the feed-forward reads the attention's norm. */
  readonly mlpNorm: string | undefined;
  /** The feed-forward reads the block's input, not the attention's output. */
  readonly parallel: boolean;
  /** Undefined with ALiBi. */
  readonly ropeOf: LayerRopes['of'] | undefined;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
}

/** T tokens, H hidden size, D head dimension, I inner size. */
function forward(dimensions: Dimensions): LayerForward {
  const { fused, attentionNorm, mlpNorm, parallel, ropeOf, eps, activation } = dimensions;
  const scale = 1 / Math.sqrt(fused.D);
  return {
    embed: embedTokens,

    block(k, w, x, blockIndex) {
      const norm = (name: string) => k.layerNorm(x, w(`${name}.weight`), w(`${name}.bias`), eps); // [T, H]
      const normed = norm(attentionNorm);
      const beside = mlpNorm && parallel ? norm(mlpNorm) : normed; // [T, H]
      const [q, key, value] = splitFused(k, w, normed, fused);
      const attended =
        ropeOf === undefined
          ? k.attention(q, key, value, { scale, alibi: { slopes: k.constant('alibi'), rounded: true } })
          : rotateAndAttend(
              k,
              [q, key, value],
              { ...fused, scale, ropeOf, windowTokens: () => 0 },
              blockIndex,
            ); // [T, H]
      project(k, w, attended, 'self_attention.dense', x);

      const after = mlpNorm && !parallel ? norm(mlpNorm) : beside; // [T, H]
      const inner = k.linear(after, w.matrix('mlp.dense_h_to_4h.weight'), {
        bias: w.optional('mlp.dense_h_to_4h.bias'),
        activation,
      }); // [T, I]
      project(k, w, inner, 'mlp.dense_4h_to_h', x);
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('ln_f.weight'), w('ln_f.bias'), eps, out); // [R, H]
    },
  };
}
