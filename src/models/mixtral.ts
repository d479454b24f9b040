// Mixtral (Jiang et al. 2024): Mistral's block with a mixture of experts in place of the feed-forward.

import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { readChoices, sparseFeedForward } from './feed-forward.js';
import { readLayerWindows } from './layer-windows.js';
import { buildLlama } from './llama.js';

export const mixtral: Architecture = {
  modelTypes: ['mixtral'],
  build: (config) => {
    const slides = config.raw('sliding_window') !== undefined;
    const blockCount = config.count(['num_hidden_layers']);
    const experts = sparseFeedForward({
      H: config.count(['hidden_size']),
      I: config.count(['intermediate_size']),
      ...readChoices(config, { experts: 8, chosen: 2 }),
      normalize: true,
      activation: readActivation(config, ['hidden_act'], 'silu'),
      router: 'block_sparse_moe.gate.weight',
      gate: (e) => `block_sparse_moe.experts.${e}.w1.weight`,
      up: (e) => `block_sparse_moe.experts.${e}.w3.weight`,
      down: (e) => `block_sparse_moe.experts.${e}.w2.weight`,
    });
    return buildLlama(config, {
      architecture: 'mixtral',
      qkvBias: false,
      outBias: false,
      mlpBias: false,
      defaultContext: 4096 * 32,
      defaultEps: 1e-5,
      defaultRopeBase: 1e6,
      windowTokens: readLayerWindows(config, blockCount, () => slides),
      feedForward: () => experts,
    });
  },
};
