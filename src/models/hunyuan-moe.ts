// Hunyuan (Tencent 2025), its mixture: the dense models' block with softmax experts beside a shared one in every layer.

import { PLAIN_ROUTE } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { gatedFeedForward } from './feed-forward.js';
import { hunyuanTraits } from './hunyuan-dense.js';
import { buildLlama } from './llama.js';
import { MLP_EXPERTS, mixtureFeedForward } from './mixture.js';

export const hunyuanMoe: Architecture = {
  modelTypes: ['hunyuan_v1_moe'],
  isShareable: true,
  build: (config) => {
    config.refuseUnless(true, 'use_qk_norm', 'use_mixed_mlp_moe', 'norm_topk_prob');
    config.refuseUnless(false, 'use_cla', 'mlp_bias');
    config.refuseUnless(0, 'moe_layer_num_skipped');
    config.refuseUnless(1, 'routed_scaling_factor');
    const H = config.count(['hidden_size']);
    const I = config.count(['intermediate_size']);
    const inner = config.shared(I, 'intermediate_size');
    // Configurations say of every layer what the reference knows of all.
    refuseOthers(config, 'moe_intermediate_size', I);
    refuseOthers(config, 'num_shared_expert', 1);
    const activation = readActivation(config, ['hidden_act'], 'silu');
    const layers = Array.from({ length: config.count(['num_hidden_layers']) }, (_, index) => {
      const expertCount = countOf(config, ['num_experts'], index);
      const chosen = countOf(config, ['moe_topk', 'num_experts_per_tok'], index);
      if (chosen > expertCount) {
        throw config.unsupported('moe_topk', chosen, `1 to ${expertCount}, the number of experts`);
      }
      return mixtureFeedForward({
        H,
        I: inner,
        expertCount,
        activation,
        router: {
          names: ['mlp.gate.wg.weight', 'mlp.gate.weight'],
          chosen,
          rule: { ...PLAIN_ROUTE, normalize: true },
        },
        names: MLP_EXPERTS,
        shared: gatedFeedForward({ H, I: inner, activation, at: ['mlp.shared_mlp'] }),
      });
    });
    const [first] = layers;
    return buildLlama(config, {
      ...hunyuanTraits(config),
      architecture: 'hunyuan_v1_moe',
      ...(first ? { feedForward: (index: number) => layers[index] ?? first } : {}),
    });
  },
};

/** A number of all layers, or a list with one of each. */
function countOf(config: ConfigReader, names: readonly string[], index: number): number {
  const given = config.raw(...names) ?? 1;
  const value: unknown = Array.isArray(given) ? given[index] : given;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 1 && value <= 10_000) return value;
  throw config.unsupported(
    names[0] ?? '',
    given,
    'a whole number from 1 to 10000, or a list of them for every layer',
  );
}

function refuseOthers(config: ConfigReader, name: string, only: number): void {
  const given = config.raw(name) ?? only;
  const values: readonly unknown[] = Array.isArray(given) ? given : [given];
  if (!values.every((value) => value === only)) throw config.unsupported(name, given, String(only));
}
