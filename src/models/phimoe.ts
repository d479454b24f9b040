// Phi-3.5-MoE (Abdin et al. 2024): Llama's block with layer norms, and two experts that a sparse mixer picks one after the other.

import { PLAIN_ROUTE } from '../../offload/index.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { readLayerWindows } from './layer-windows.js';
import { buildLlama, everywhere } from './llama.js';
import { MIXTRAL_EXPERTS, mixtureFeedForward, readChoices, refuseSharedExperts } from './mixture.js';

export const phimoe: Architecture = {
  modelTypes: ['phimoe'],
  isShareable: true,
  build: (config) => {
    refuseSharedExperts(config);
    const bias = config.flag(['attention_bias'], false);
    const { expertCount, chosen } = readChoices(config, { experts: 16, chosen: 2 });
    if (chosen !== 2) throw config.unsupported('num_experts_per_tok', chosen, '2');
    const noise = config.number(['router_jitter_noise'], 0.01);
    if (noise <= 0) throw config.unsupported('router_jitter_noise', noise, 'numbers above 0');
    const experts = mixtureFeedForward({
      H: config.count(['hidden_size']),
      I: config.shared(config.count(['intermediate_size']), 'intermediate_size'),
      expertCount,
      activation: readActivation(config, ['hidden_act'], 'silu'),
      router: {
        names: ['block_sparse_moe.gate.weight', 'mlp.gate.weight', 'mlp.router.weight'],
        chosen,
        rule: { ...PLAIN_ROUTE, sparseMixer: 2 * noise },
      },
      names: MIXTRAL_EXPERTS,
    });
    const slides = config.raw('sliding_window') !== undefined;
    return buildLlama(config, {
      architecture: 'phimoe',
      qkvBias: bias,
      outBias: bias,
      mlpBias: false,
      layerNorms: true,
      headBias: config.flag(['lm_head_bias'], false),
      defaultContext: 131072,
      defaultEps: 1e-5,
      defaultRopeBase: 1e6,
      rope: { mscales: true },
      windowTokens: readLayerWindows(config, config.count(['num_hidden_layers']), () => slides),
      feedForward: everywhere(experts),
    });
  },
};
