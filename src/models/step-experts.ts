// Step's feed-forwards: some dense layers, then experts beside one that every token goes to; gates of some layers end somewhere.

import { present } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { type FeedForward, gatedFeedForward } from './feed-forward.js';
import { mixtureFeedForward, readChoices } from './mixture.js';
import { sigmoidRule } from './routers.js';
import { stepLimits, stepSparseLayers } from './step-layers.js';

/** By layer. Throws BAD_CONFIG or UNSUPPORTED. */
export function readStepFeedForwards(config: ConfigReader): (blockIndex: number) => FeedForward {
  const H = config.count(['hidden_size']);
  const bias = config.flag(['mlp_bias'], false);
  const counts = readChoices(config, { experts: 288, chosen: 8 }, ['num_experts_per_tok', 'moe_top_k']);
  const experts = {
    H,
    I: config.count(['moe_intermediate_size'], 1280),
    activation: 'silu',
    expertCount: counts.expertCount,
    router: {
      names: ['moe.gate.weight', 'mlp.gate.weight'],
      chosen: counts.chosen,
      rule: sigmoidRule(config.number(['moe_router_scaling_factor'], 1), 0),
      bias: { names: ['moe.router_bias', 'mlp.gate.e_score_correction_bias'] },
    },
    names: {
      gate: (e: number) => `moe.experts.${e}.gate_proj.weight`,
      up: (e: number) => `moe.experts.${e}.up_proj.weight`,
      down: (e: number) => `moe.experts.${e}.down_proj.weight`,
      fused: ['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'],
      stacked: { gate: 'moe.gate_proj.weight', up: 'moe.up_proj.weight', down: 'moe.down_proj.weight' },
    },
  } as const;
  const sharedI = config.count(['share_expert_dim', 'share_expert_dims'], 1280);
  const denseI = config.count(['intermediate_size'], 11264);
  const limits = stepLimits(config, 'swiglu_limits');
  const sharedLimits = stepLimits(config, 'swiglu_limits_shared');
  const until = (limit: number) => (limit > 0 ? { limits: { limit, limitAfter: true } } : {});
  // Most layers are alike, and each kind has thousands of definitions.
  const made = new Map<string, FeedForward>();
  const all = stepSparseLayers(config).map((isSparse, index) => {
    const [limit = 0, shared = 0] = [limits[index], sharedLimits[index]];
    const kind = isSparse ? `${limit} ${shared}` : `dense ${shared}`;
    const plain = { H, activation: 'silu', bias, ...until(shared) } as const;
    const feed =
      made.get(kind) ??
      (isSparse
        ? mixtureFeedForward({
            ...experts,
            ...until(limit),
            shared: gatedFeedForward({ ...plain, I: sharedI, at: ['share_expert', 'mlp.shared_experts'] }),
          })
        : gatedFeedForward({ ...plain, I: denseI }));
    made.set(kind, feed);
    return feed;
  });
  return (index) => present(all[index], 'a layer');
}
