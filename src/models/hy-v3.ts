// Hunyuan 3 (Tencent 2026): Llama's block, queries and keys normed head by head, sigmoid experts beside a shared one.

import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { denseFeedForward, gatedFeedForward } from './feed-forward.js';
import { buildLlama } from './llama.js';
import { MLP_EXPERTS, mixtureFeedForward, readChoices } from './mixture.js';
import { sigmoidRule } from './routers.js';
import { afterDenseLayers, feedForwards, readSparseLayers } from './sparse-layers.js';

export const hyV3: Architecture = {
  modelTypes: ['hy_v3'],
  build: (config) => {
    config.refuseUnless(
      true,
      'qk_norm',
      'route_norm',
      'moe_router_use_sigmoid',
      'moe_router_enable_expert_bias',
    );
    config.refuseUnless(null, 'sliding_window');
    const H = config.count(['hidden_size']);
    const I = config.count(['moe_intermediate_size'], 1536);
    const blockCount = config.count(['num_hidden_layers']);
    const activation = readActivation(config, ['hidden_act'], 'silu');
    const attentionBias = config.flag(['attention_bias'], false);
    const bias = config.flag(['mlp_bias'], false);
    const { expertCount, chosen } = readChoices(config, { experts: 192, chosen: 8 });
    const shared = config.count(['num_shared_experts'], 1);
    const experts = mixtureFeedForward({
      H,
      I,
      expertCount,
      activation,
      router: {
        names: ['mlp.router.gate.weight', 'mlp.gate.weight'],
        chosen,
        rule: sigmoidRule(config.number(['router_scaling_factor', 'routed_scaling_factor'], 2.826)),
        bias: { names: ['mlp.expert_bias', 'mlp.e_score_correction_bias'] },
      },
      names: MLP_EXPERTS,
      shared: gatedFeedForward({
        H,
        I: I * shared,
        activation,
        bias,
        at: ['mlp.shared_mlp', 'mlp.shared_experts'],
      }),
    });
    const isSparse = readSparseLayers(config, blockCount, afterDenseLayers(config, 1));
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
      feedForward: feedForwards(blockCount, isSparse, experts, () =>
        denseFeedForward(H, config.count(['intermediate_size'], 13312), activation, bias),
      ),
    });
  },
};
