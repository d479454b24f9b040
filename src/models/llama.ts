// Llama (Touvron et al. 2023): RMS norm, rotary positions, grouped-query attention, gated feed-forward.

import type { LayerForward, Tensor } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import {
  attentionShapes,
  project,
  type RotaryAttention,
  readGroupedHeads,
  separateAttention,
} from './decoder-parts.js';
import { denseFeedForward, type FeedForward } from './feed-forward.js';
import { readLayerWindows } from './layer-windows.js';
import { readRope } from './rope.js';

export const llama: Architecture = {
  modelTypes: ['llama'],
  build: (config) => {
    const attentionBias = config.flag(['attention_bias'], false);
    return buildLlama(config, {
      architecture: 'llama',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: config.flag(['mlp_bias'], false),
      defaultContext: 2048,
    });
  },
};

/** What the families that share Llama's block differ in. */
export interface LlamaTraits {
  readonly architecture: string;
  readonly qkvBias: boolean;
  readonly outBias: boolean;
  readonly mlpBias: boolean;
  readonly defaultContext: number;
  /** Where the configuration names none; otherwise hidden_size over num_attention_heads. */
  readonly defaultHeadDim?: number;
  /** Queries and keys are normed head by head. */
  readonly headNorms?: boolean;
  /** Heads have scores of their own in every softmax. */
  readonly sinks?: boolean;
  /** Tokens that a layer sees; 0 or absent for all. */
  readonly windowTokens?: (blockIndex: number) => number;
  /** Otherwise a dense one in every layer. */
  readonly feedForward?: (blockIndex: number) => FeedForward;
  /** Where the configuration gives none. */
  readonly defaultEps?: number;
  readonly defaultRopeBase?: number;
}

/** Llama's block with what a relative has of its own. Throws BAD_CONFIG or UNSUPPORTED. */
export function buildLlama(config: ConfigReader, traits: LlamaTraits): ArchitectureModel {
  config.refuseUnless(null, 'clip_qkv', 'attn_logit_softcapping', 'final_logit_softcapping');
  const H = config.count(['hidden_size']);
  const V = config.count(['vocab_size']);
  const blockCount = config.count(['num_hidden_layers']);
  const grouped = readGroupedHeads(config, H, traits.defaultHeadDim);
  const { nKv, D } = grouped;
  const {
    headNorms = false,
    sinks = false,
    defaultContext,
    defaultRopeBase = 10000,
    defaultEps = 1e-6,
  } = traits;
  const rope = readRope(config, { headDim: D, defaultContext, defaultBase: defaultRopeBase });
  const eps = config.number(['rms_norm_eps'], defaultEps);
  const feedForward = traits.feedForward ?? everywhere(readDense(config, H, traits.mlpBias));
  return {
    architecture: traits.architecture,
    hiddenSize: H,
    vocabSize: V,
    maxContextTokens: rope.contextTokens,
    recomputeAtTokens: rope.recomputeAtTokens,
    lengthDependentAfterTokens: rope.lengthDependentAfterTokens,
    kvHeads: nKv,
    headDim: D,
    blockCount,
    prefixes: ['model.'],
    tables: [{ key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'norm.weight': [H] }),
    block: (index) => [
      ...tensorsUnder(`layers.${index}.`, {
        'input_layernorm.weight': [H],
        ...attentionShapes(H, grouped, { qkv: traits.qkvBias, out: traits.outBias }),
        'self_attn.q_norm.weight': headNorms ? [D] : undefined,
        'self_attn.k_norm.weight': headNorms ? [D] : undefined,
        'self_attn.sinks': sinks ? [grouped.nHeads] : undefined,
        'post_attention_layernorm.weight': [H],
      }),
      ...feedForward(index).tensors(`layers.${index}.`),
    ],
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], false),
    },
    logits: PLAIN_LOGITS,
    constants: { inverse_frequencies: rope.inverseFrequencies },
    forward: forward({
      attention: {
        ...grouped,
        scale: 1 / Math.sqrt(D),
        rope: rope.use,
        windowTokens: traits.windowTokens ?? readLayerWindows(config, blockCount, () => false),
        hasSinks: sinks,
        ...(headNorms ? { headNormEps: eps } : {}),
      },
      feedForward,
      eps,
    }),
  };
}

function readDense(config: ConfigReader, H: number, bias: boolean): FeedForward {
  const activation = readActivation(config, ['hidden_act'], 'silu');
  return denseFeedForward(H, config.count(['intermediate_size']), activation, bias);
}

function everywhere(feedForward: FeedForward): (blockIndex: number) => FeedForward {
  return () => feedForward;
}

interface Dimensions {
  readonly attention: RotaryAttention;
  readonly feedForward: (blockIndex: number) => FeedForward;
  readonly eps: number;
}

/** T tokens, H hidden size, D head dimension. */
function forward({ attention, feedForward, eps }: Dimensions): LayerForward {
  return {
    embed(k, _w, rows, x) {
      const { table, rows: indices } = rows('tokens');
      k.gather(x, table, indices); // [T, H]
    },

    block(k, w, x, blockIndex) {
      const normed = k.rmsNorm(x, w('input_layernorm.weight'), eps); // [T, H]
      const attended = separateAttention(k, w, normed, attention, blockIndex); // [T, nHeads · D]
      project(k, w, attended, 'self_attn.o_proj', x);

      const after = (out?: Tensor) => k.rmsNorm(x, w('post_attention_layernorm.weight'), eps, 0, out); // [T, H]
      feedForward(blockIndex).add(k, w, after, x);
    },

    headInput(k, w, x, out) {
      k.rmsNorm(x, w('norm.weight'), eps, 0, out); // [R, H]
    },
  };
}
