// OLMo 2 and 3 (Walsh et al. 2024): norms behind each half instead of before, and over whole projections of queries and keys.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { QUERY_KEY_NORMS } from './decoder-parts.js';
import { readRopesByType } from './layer-ropes.js';
import { readLayerTypes, windowsOf } from './layer-windows.js';
import { buildLlama, everywhere, LLAMA_NORMS, NORMS_BEHIND } from './llama.js';
import { MLP_EXPERTS, mixtureFeedForward, readChoices, refuseSharedExperts } from './mixture.js';
import { softmaxRule } from './routers.js';

const ROPE_BASE = 500000;

export const olmo2: Architecture = {
  modelTypes: ['olmo2'],
  build: (config) => buildLlama(config, { ...commonTraits(config), architecture: 'olmo2' }),
};

/** Three of four layers slide, and only the others' rotations are stretched. */
export const olmo3: Architecture = {
  modelTypes: ['olmo3'],
  build: (config) => {
    const blockCount = config.count(['num_hidden_layers']);
    const types = readLayerTypes(config, blockCount, (index) => (index + 1) % 4 !== 0);
    // The reference reads an older spelling for the layers that see everything alone.
    if (!config.object('rope_parameters')) config.refuseUnless(ROPE_BASE, 'rope_theta');
    return buildLlama(config, {
      ...commonTraits(config),
      architecture: 'olmo3',
      windowTokens: windowsOf(config, types, 4096),
      ropes: (headDim) =>
        readRopesByType(config, types, {
          headDim,
          defaultContext: 2048,
          defaultBase: ROPE_BASE,
          slidingBase: { names: ['rope_theta'], default: ROPE_BASE },
        }),
    });
  },
};

/** OLMoE (Muennighoff et al. 2024): the same norms of queries and keys, but Llama's of the block, and softmax experts. */
export const olmoe: Architecture = {
  modelTypes: ['olmoe'],
  build: (config) => {
    refuseSharedExperts(config);
    const { expertCount, chosen } = readChoices(config, { experts: 64, chosen: 8 });
    const experts = mixtureFeedForward({
      H: config.count(['hidden_size']),
      I: config.count(['intermediate_size']),
      expertCount,
      activation: readActivation(config, ['hidden_act'], 'silu'),
      router: { names: ['mlp.gate.weight'], chosen, rule: softmaxRule(config, false) },
      names: MLP_EXPERTS,
    });
    return buildLlama(config, {
      ...commonTraits(config),
      architecture: 'olmoe',
      norms: LLAMA_NORMS,
      defaultContext: 4096,
      feedForward: everywhere(experts),
    });
  },
};

function commonTraits(config: ConfigReader) {
  const bias = config.flag(['attention_bias'], false);
  return {
    qkvBias: bias,
    outBias: bias,
    mlpBias: false,
    defaultContext: 2048,
    defaultEps: 1e-5,
    norms: NORMS_BEHIND,
    queryKeyNorm: { over: 'projection', names: QUERY_KEY_NORMS },
  } as const;
}
