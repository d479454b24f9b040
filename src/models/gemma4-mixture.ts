// The experts of Gemma 4's larger model: they stand beside the feed-forward of every layer, and both read the same residual.

import {
  type Activation,
  dimension,
  type ForwardOps,
  PLAIN_ROUTE,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { type TensorDef, tensorsUnder } from './architecture.js';
import { type ExpertNames, routedExperts } from './mixture.js';

export interface Gemma4Mixture {
  tensors(path: string): readonly TensorDef[];
  /** What experts make of the residual [T, H], added to `dense`, which is the normed result of the feed-forward. */
  addTo(k: ForwardOps, w: Weights, residual: Tensor, dense: Tensor): Tensor;
}

const NAMES: ExpertNames = {
  gate: (e) => `experts.${e}.gate_proj.weight`,
  up: (e) => `experts.${e}.up_proj.weight`,
  down: (e) => `experts.${e}.down_proj.weight`,
  fused: ['experts.gate_up_proj', 'experts.down_proj'],
};

export function readGemma4Mixture(config: ConfigReader, H: number, activation: Activation): Gemma4Mixture {
  const expertCount = config.count(['num_experts']);
  const chosen = config.count(['top_k_experts']);
  if (chosen > expertCount)
    throw config.unsupported('top_k_experts', chosen, `1 to ${expertCount}, the number of experts`);
  const eps = config.number(['rms_norm_eps'], 1e-6);
  const I = config.count(['moe_intermediate_size']);
  const experts = routedExperts({ H, I, expertCount, activation, names: NAMES });
  const rule = { ...PLAIN_ROUTE, normalize: true };
  const norms = [
    'post_feedforward_layernorm_1',
    'pre_feedforward_layernorm_2',
    'post_feedforward_layernorm_2',
  ];
  return {
    tensors: (path) => [
      ...tensorsUnder(path, {
        ...Object.fromEntries(norms.map((name) => [`${name}.weight`, [H]])),
        'router.scale': [H],
        'router.per_expert_scale': [expertCount],
      }),
      {
        key: 'router.proj.weight',
        name: `${path}router.proj.weight`,
        shape: [expertCount, H],
        isRouter: true,
      },
      ...experts.tensors(path),
    ],
    addTo(k, w, residual, dense) {
      const asked = k.rmsNorm(residual, w('router.scale'), eps, 0, k.floats(residual.shape)); // [T, H]
      const logits = k.floats([dimension(residual, 0), expertCount]);
      k.linear(asked, w.matrix('router.proj.weight'), {}, logits);
      k.scaleCap(logits, 1 / Math.sqrt(H), 0);
      const routing = k.route(logits, chosen, rule, { expertScale: w('router.per_expert_scale') });
      const rows = k.rmsNorm(residual, w('pre_feedforward_layernorm_2.weight'), eps); // [T, H]
      const routed = experts.result(k, w, rows, { routing });
      return k.add(dense, k.rmsNorm(routed, w('post_feedforward_layernorm_2.weight'), eps));
    },
  };
}
