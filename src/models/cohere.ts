// Command R, R+ (cohere), R7B and A (cohere2): one norm without bias for attention and feed-forward side by side, pairs of
// neighbours rotate, logits are scaled. In cohere2 three of four layers slide, and only those rotate.

import { alikeCaches, type LayerForward, type Tensor } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, tensorsUnder } from './architecture.js';
import {
  attentionShapes,
  embedTokens,
  project,
  QUERY_KEY_NORMS,
  type QueryKeyNorm,
  queryKeyNormTensors,
  type RotaryAttention,
  readGroupedHeads,
  separateAttention,
} from './decoder-parts.js';
import { denseFeedForward, type FeedForward } from './feed-forward.js';
import { sameRope } from './layer-ropes.js';
import { readLayerTypes, readPattern, windowsOf } from './layer-windows.js';
import { readRope } from './rope.js';

export const cohere: Architecture = {
  modelTypes: ['cohere'],
  isShareable: true,
  build: (config) =>
    build(config, {
      architecture: 'cohere',
      defaultRopeBase: 500000,
      normed: config.flag(['use_qk_norm'], false),
      windowTokens: () => 0,
      rotates: () => true,
    }),
};

export const cohere2: Architecture = {
  modelTypes: ['cohere2'],
  isShareable: true,
  build: (config) => {
    config.refuseUnless(false, 'use_qk_norm');
    config.refuseUnless(true, 'use_parallel_block', 'use_gated_activation');
    config.refuseUnless(1, 'rotary_pct');
    const types = readLayerTypes(config, config.count(['num_hidden_layers']), readPattern(config, 4));
    return build(config, {
      architecture: 'cohere2',
      defaultRopeBase: 10000,
      normed: false,
      windowTokens: windowsOf(config, types, 4096),
      rotates: (index) => types[index] === 'sliding_attention',
    });
  },
};

interface Traits {
  readonly architecture: string;
  readonly defaultRopeBase: number;
  /** Queries and keys are normed, with a weight of its own for every head. */
  readonly normed: boolean;
  readonly windowTokens: (blockIndex: number) => number;
  readonly rotates: (blockIndex: number) => boolean;
}

function build(config: ConfigReader, traits: Traits): ArchitectureModel {
  config.refuseUnless(null, 'clip_qkv', 'attn_logit_softcapping', 'final_logit_softcapping');
  const H = config.count(['hidden_size']);
  const V = config.count(['vocab_size']);
  const grouped = readGroupedHeads(config, H);
  const { nKv, D } = grouped;
  const bias = config.flag(['attention_bias'], false);
  const eps = config.number(['layer_norm_eps'], 1e-5);
  const options = { headDim: D, defaultContext: 8192, defaultBase: traits.defaultRopeBase };
  const ropes = sameRope(readRope(config, options), traits.rotates);
  const queryKeyNorm: QueryKeyNorm | undefined = traits.normed
    ? { over: 'head', centered: true, weightPerHead: true, eps, names: QUERY_KEY_NORMS }
    : undefined;
  const activation = readActivation(config, ['hidden_act'], 'silu');
  const feedForward = denseFeedForward(
    H,
    config.shared(config.count(['intermediate_size']), 'intermediate_size'),
    activation,
  );
  const blockCount = config.count(['num_hidden_layers']);
  return {
    architecture: traits.architecture,
    hiddenSize: H,
    vocabSize: V,
    ...ropes.limits,
    caches: alikeCaches(blockCount, nKv, D, traits),
    blockCount,
    prefixes: ['model.'],
    tables: [{ key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'norm.weight': [H] }),
    block: (index) => [
      ...tensorsUnder(`layers.${index}.`, {
        'input_layernorm.weight': [H],
        ...attentionShapes(H, grouped, { qkv: bias, out: bias }),
      }),
      ...(queryKeyNorm ? queryKeyNormTensors(`layers.${index}.`, queryKeyNorm, grouped) : []),
      ...feedForward.tensors(`layers.${index}.`),
    ],
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: { scale: config.number(['logit_scale'], 0.0625), softCap: 0 },
    constants: ropes.constants,
    forward: forward({
      attention: {
        ...grouped,
        scale: 1 / Math.sqrt(D),
        ropeOf: ropes.of,
        interleaved: true,
        windowTokens: traits.windowTokens,
        queryKeyNorm,
      },
      feedForward,
      eps,
    }),
  };
}

interface Dimensions {
  readonly attention: RotaryAttention;
  readonly feedForward: FeedForward;
  readonly eps: number;
}

/** T tokens, H hidden size, D head dimension. */
function forward({ attention, feedForward, eps }: Dimensions): LayerForward {
  return {
    embed: embedTokens,

    block(k, w, x, blockIndex) {
      const normed: Tensor = k.layerNorm(x, w('input_layernorm.weight'), null, eps); // [T, H], for both halves
      const attended = separateAttention(k, w, normed, attention, blockIndex); // [T, nHeads · D]
      project(k, w, attended, 'self_attn.o_proj', x);
      feedForward.add(k, w, () => normed, x);
    },

    headInput(k, w, x, out) {
      k.layerNorm(x, w('norm.weight'), null, eps, out); // [R, H]
    },
  };
}
