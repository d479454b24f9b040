// Hunyuan 3 (Tencent 2026): Llama's block, queries and keys normed head by head, sigmoid experts beside a shared one.

import type { Architecture } from './architecture.js';
import { buildLlama } from './llama.js';
import { readChoices } from './mixture.js';
import { sigmoidRule } from './routers.js';
import { sharedExperts } from './shared-experts.js';
import { afterDenseLayers, readSparseLayers } from './sparse-layers.js';

export const hyV3: Architecture = {
  modelTypes: ['hy_v3'],
  isShareable: true,
  build: (config) => {
    config.refuseUnless(
      true,
      'qk_norm',
      'route_norm',
      'moe_router_use_sigmoid',
      'moe_router_enable_expert_bias',
    );
    config.refuseUnless(null, 'sliding_window');
    const I = config.count(['moe_intermediate_size'], 1536);
    const blockCount = config.count(['num_hidden_layers']);
    const attentionBias = config.flag(['attention_bias'], false);
    const bias = config.flag(['mlp_bias'], false);
    const { expertCount, chosen } = readChoices(config, { experts: 192, chosen: 8 });
    return buildLlama(config, {
      architecture: 'hy_v3',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: bias,
      headNorms: true,
      defaultContext: 131072,
      defaultHeadDim: 128,
      defaultEps: 1e-5,
      defaultRopeBase: 11_158_840,
      feedForward: sharedExperts(config, {
        I,
        expertCount,
        router: {
          names: ['mlp.router.gate.weight', 'mlp.gate.weight'],
          chosen,
          rule: sigmoidRule(config.number(['router_scaling_factor', 'routed_scaling_factor'], 2.826)),
          bias: { names: ['mlp.expert_bias', 'mlp.e_score_correction_bias'] },
        },
        sharedI: I * config.count(['num_shared_experts'], 1),
        sharedAt: ['mlp.shared_mlp', 'mlp.shared_experts'],
        isSparse: readSparseLayers(config, blockCount, afterDenseLayers(config, 1)),
        denseI: 13312,
        bias,
      }),
    });
  },
};
