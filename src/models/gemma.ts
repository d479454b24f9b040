// Gemma (Mesnard et al. 2024), its second and its third generation: Llama's block with norms stored as their distance from one.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { QUERY_KEY_NORMS } from './decoder-parts.js';
import { denseFeedForward, type FeedForward } from './feed-forward.js';
import { readRopesByType, ropesByType } from './layer-ropes.js';
import { type LayerType, readLayerTypes, readPattern, windowsOf } from './layer-windows.js';
import { buildLlama, everywhere, NORMS_AROUND } from './llama.js';
import { readRope } from './rope.js';

/** Gemma 2's; null means none. */
const DEFAULT_CAPS = { attn_logit_softcapping: 50, final_logit_softcapping: 30 } as const;

export const gemma: Architecture = {
  modelTypes: ['gemma'],
  isShareable: true,
  build: (config) => {
    config.refuseUnless(null, 'attn_logit_softcapping', 'final_logit_softcapping');
    // The first releases named an activation that they were not trained with, and `hidden_activation` beside it.
    const activation = config.raw('hidden_activation') !== undefined ? 'hidden_activation' : 'hidden_act';
    return buildLlama(config, {
      ...commonTraits(config, activation),
      architecture: 'gemma',
      defaultContext: 8192,
    });
  },
};

export const gemma2: Architecture = {
  modelTypes: ['gemma2'],
  isShareable: true,
  build: (config) => {
    const types = readLayerTypes(config, config.count(['num_hidden_layers']), (index) => index % 2 === 0);
    const rope = (headDim: number) => (layerType: LayerType) =>
      readRope(config, { headDim, defaultContext: 8192, layerType });
    return buildLlama(config, {
      ...commonTraits(config, 'hidden_activation'),
      architecture: 'gemma2',
      defaultContext: 8192,
      norms: NORMS_AROUND,
      ropes: (headDim) => ropesByType(config, types, rope(headDim)),
      windowTokens: windowsOf(config, types, 4096),
      attentionScale: 1 / Math.sqrt(config.number(['query_pre_attn_scalar'], 256)),
      attentionSoftCap: readCap(config, 'attn_logit_softcapping'),
      logits: { scale: 1, softCap: readCap(config, 'final_logit_softcapping') },
    });
  },
};

/** Every sixth layer sees everything, with rotations of its own; queries and keys are normed in place of capped scores. */
export const gemma3: Architecture = {
  modelTypes: ['gemma3_text'],
  isShareable: true,
  build: (config) => {
    const blockCount = config.count(['num_hidden_layers']);
    const types = readLayerTypes(config, blockCount, readPattern(config, 6));
    return buildLlama(config, {
      ...commonTraits(config, 'hidden_activation'),
      architecture: 'gemma3_text',
      defaultContext: 131072,
      norms: NORMS_AROUND,
      queryKeyNorm: { over: 'head', names: QUERY_KEY_NORMS },
      ropes: (headDim) =>
        readRopesByType(config, types, {
          headDim,
          defaultContext: 131072,
          defaultBase: 1e6,
          slidingBase: { names: ['rope_local_base_freq'], default: 10000 },
        }),
      windowTokens: windowsOf(config, types, 4096),
      attentionScale: 1 / Math.sqrt(config.number(['query_pre_attn_scalar'], 256)),
      logits: { scale: 1, softCap: config.number(['final_logit_softcapping'], 0) },
    });
  },
};

function commonTraits(config: ConfigReader, activationName: string) {
  config.refuseUnless(false, 'use_bidirectional_attention');
  const H = config.count(['hidden_size']);
  const bias = config.flag(['attention_bias'], false);
  return {
    qkvBias: bias,
    outBias: bias,
    mlpBias: false,
    defaultHeadDim: 256,
    normsFromOne: true,
    tiedByDefault: true,
    embeddingScale: Math.sqrt(H),
    feedForward: everywhere(readFeedForward(config, H, activationName)),
  } as const;
}

function readFeedForward(config: ConfigReader, H: number, activationName: string): FeedForward {
  const activation = readActivation(config, [activationName], 'gelu_pytorch_tanh');
  const I = config.shared(config.count(['intermediate_size']), 'intermediate_size');
  return denseFeedForward(H, I, activation);
}

/** Null means none; absent means the paper's. */
function readCap(config: ConfigReader, name: keyof typeof DEFAULT_CAPS): number {
  return config.number([name], config.has(name) ? 0 : DEFAULT_CAPS[name]);
}
