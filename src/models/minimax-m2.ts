// MiniMax-M2 (MiniMax 2025): Llama's block with part of each head turned, norms over whole projections, and experts everywhere.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { QUERY_KEY_NORMS } from './decoder-parts.js';
import { buildLlama, everywhere } from './llama.js';
import { MIXTRAL_EXPERTS, mixtureFeedForward, readChoices } from './mixture.js';
import { sigmoidRule } from './routers.js';

const HEAD_DIM = 128;

export const minimaxM2: Architecture = {
  modelTypes: ['minimax_m2'],
  build: (config) => {
    config.refuseUnless(true, 'use_qk_norm', 'use_routing_bias');
    config.refuseUnless('per_layer', 'qk_norm_type');
    config.refuseUnless('sigmoid', 'scoring_func');
    config.refuseUnless(0, 'shared_intermediate_size');
    config.refuseUnless(null, 'sliding_window');
    const { expertCount, chosen } = readChoices(config, { experts: 256, chosen: 8 });
    const experts = mixtureFeedForward({
      H: config.count(['hidden_size']),
      I: config.shared(config.count(['intermediate_size']), 'intermediate_size'),
      expertCount,
      activation: readActivation(config, ['hidden_act'], 'silu'),
      router: {
        names: ['block_sparse_moe.gate.weight', 'mlp.gate.weight'],
        chosen,
        rule: sigmoidRule(1, 0),
        bias: { names: ['block_sparse_moe.e_score_correction_bias', 'mlp.e_score_correction_bias'] },
      },
      names: MIXTRAL_EXPERTS,
    });
    return buildLlama(config, {
      architecture: 'minimax_m2',
      qkvBias: false,
      outBias: false,
      mlpBias: false,
      defaultContext: 196608,
      defaultHeadDim: HEAD_DIM,
      defaultRopeBase: 5e6,
      rope: { partNames: ['partial_rotary_factor'], defaultPart: readRotatedPart(config) },
      queryKeyNorm: { over: 'projection', names: QUERY_KEY_NORMS },
      feedForward: everywhere(experts),
    });
  },
};

/** Published configurations say in `rotary_dim` how much of a head turns, which transformers passes over up to 5.17. */
function readRotatedPart(config: ConfigReader): number {
  const dims = config.optionalCount(['rotary_dim']);
  if (dims === undefined) return 1;
  const headDim = config.count(['head_dim'], HEAD_DIM);
  const parameters = config.object('rope_scaling', 'rope_parameters');
  const part = parameters?.optionalNumber(['partial_rotary_factor']) ?? dims / headDim;
  if (Math.trunc(headDim * part) !== dims) {
    throw config.unsupported(
      'rotary_dim',
      dims,
      `${headDim * part}, which partial_rotary_factor makes of head_dim`,
    );
  }
  return part;
}
