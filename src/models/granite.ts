// Granite 3 (IBM 2024): Llama's block with factors on embeddings, on scores, on what each half adds, and under logits.

import { PLAIN_ROUTE } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import type { FeedForward } from './feed-forward.js';
import { buildLlama, everywhere } from './llama.js';
import { mixtureFeedForward, readChoices, refuseSharedExperts } from './mixture.js';

export const granite: Architecture = {
  modelTypes: ['granite'],
  isShareable: true,
  build: (config) => {
    const bias = config.flag(['attention_bias'], false);
    return buildLlama(config, {
      architecture: 'granite',
      qkvBias: bias,
      outBias: bias,
      mlpBias: config.flag(['mlp_bias'], false),
      defaultContext: 2048,
      ...graniteFactors(config),
    });
  },
};

/** Its mixture: all experts of a layer in two tensors. */
export const graniteMoe: Architecture = {
  modelTypes: ['granitemoe'],
  isShareable: true,
  build: (config) => {
    const bias = config.flag(['attention_bias'], false);
    refuseSharedExperts(config);
    return buildLlama(config, {
      architecture: 'granitemoe',
      qkvBias: bias,
      outBias: bias,
      mlpBias: false,
      defaultContext: 2048,
      ...graniteFactors(config),
      feedForward: everywhere(graniteExperts(config)),
    });
  },
};

/** @param shared what every token goes to as well */
export function graniteExperts(config: ConfigReader, shared?: FeedForward): FeedForward {
  const { expertCount, chosen } = readChoices(config, { experts: 8, chosen: 2 });
  return mixtureFeedForward({
    H: config.count(['hidden_size']),
    I: config.shared(config.count(['intermediate_size']), 'intermediate_size'),
    expertCount,
    activation: readActivation(config, ['hidden_act'], 'silu'),
    router: {
      names: ['block_sparse_moe.router.layer.weight', 'block_sparse_moe.router.weight', 'mlp.gate.weight'],
      chosen,
      rule: { ...PLAIN_ROUTE, normalize: true },
    },
    names: {
      gate: (e) => `block_sparse_moe.experts.${e}.gate_proj.weight`,
      up: (e) => `block_sparse_moe.experts.${e}.up_proj.weight`,
      down: (e) => `block_sparse_moe.experts.${e}.down_proj.weight`,
      fused: ['block_sparse_moe.input_linear.weight', 'block_sparse_moe.output_linear.weight'],
    },
    shared,
  });
}

/** The four factors as traits; none may be 0. */
export function graniteFactors(config: ConfigReader) {
  const factor = (name: string) => {
    const value = config.number([name], 1);
    if (value === 0) throw config.unsupported(name, value, 'numbers other than 0');
    return value;
  };
  return {
    embeddingScale: factor('embedding_multiplier'),
    residualScale: factor('residual_multiplier'),
    attentionScale: factor('attention_multiplier'),
    logits: { scale: 1 / factor('logits_scaling'), softCap: 0 },
  };
}
