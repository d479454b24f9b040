// Mixtral (Jiang et al. 2024): Mistral's block with a mixture of experts in place of the feed-forward.

import { PLAIN_ROUTE } from '../../offload/index.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { readLayerWindows } from './layer-windows.js';
import { buildLlama, everywhere } from './llama.js';
import { MIXTRAL_EXPERTS, mixtureFeedForward, readChoices, refuseSharedExperts } from './mixture.js';

export const mixtral: Architecture = {
  modelTypes: ['mixtral'],
  isShareable: true,
  build: (config) => {
    refuseSharedExperts(config);
    const slides = config.raw('sliding_window') !== undefined;
    const blockCount = config.count(['num_hidden_layers']);
    const { expertCount, chosen } = readChoices(config, { experts: 8, chosen: 2 });
    const experts = mixtureFeedForward({
      H: config.count(['hidden_size']),
      I: config.shared(config.count(['intermediate_size']), 'intermediate_size'),
      expertCount,
      activation: readActivation(config, ['hidden_act'], 'silu'),
      router: {
        names: ['block_sparse_moe.gate.weight', 'mlp.gate.weight'],
        chosen,
        rule: { ...PLAIN_ROUTE, normalize: true },
      },
      names: MIXTRAL_EXPERTS,
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
      feedForward: everywhere(experts),
    });
  },
};
