// gpt-oss (OpenAI 2025): Llama's block with sinks in attention, alternating windows, and a mixture whose experts have biases.

import { dimension, PLAIN_ROUTE } from '../../offload/index.js';
import type { Architecture, TensorDef } from './architecture.js';
import type { FeedForward } from './feed-forward.js';
import { readLayerWindows } from './layer-windows.js';
import { buildLlama } from './llama.js';
import { readChoices } from './mixture.js';
import { requireRotation } from './rope.js';

/** How steep the experts' gates are, and what they are limited to; constants of the reference. */
const ALPHA = 1.702;
const LIMIT = 7;

export const gptOss: Architecture = {
  modelTypes: ['gpt_oss'],
  isShareable: true,
  build: (config) => {
    config.refuseUnless(LIMIT, 'swiglu_limit');
    config.refuseUnless('silu', 'hidden_act');
    requireRotation(config);
    const blockCount = config.count(['num_hidden_layers']);
    const attentionBias = config.flag(['attention_bias'], true);
    const experts = biasedExperts({
      H: config.count(['hidden_size']),
      I: config.shared(config.count(['intermediate_size']), 'intermediate_size'),
      ...readChoices(config, { experts: 128, chosen: 4 }),
    });
    return buildLlama(config, {
      architecture: 'gpt_oss',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: false,
      sinks: true,
      defaultContext: 131072,
      defaultHeadDim: 64,
      defaultEps: 1e-5,
      defaultRopeBase: 150000,
      windowTokens: readLayerWindows(config, blockCount, (index) => index % 2 === 0, 128),
      feedForward: () => experts,
    });
  },
};

interface BiasedExperts {
  readonly H: number;
  readonly I: number;
  readonly expertCount: number;
  readonly chosen: number;
}

/** Rows of gate and up alternate; the experts of a layer are one tensor, stored [inputs, outputs] where it holds values. */
function biasedExperts({ H, I, expertCount, chosen }: BiasedExperts): FeedForward {
  const experts = Array.from({ length: expertCount }, (_, e) => e);
  const keys = (name: string) => experts.map((e) => `mlp.experts.${e}.${name}`);
  const [gateUps, downs] = [keys('gate_up_proj'), keys('down_proj')];
  const fused = (path: string, name: string, N: number, K: number): TensorDef[] =>
    keys(name).map((key, e) => ({
      key,
      name: `${path}${key}.weight`,
      shape: [N, K],
      elsewhere: [
        {
          name: `${path}mlp.experts.${name}`,
          shape: [expertCount, N, K],
          firstElement: e * N * K,
          inputMajor: true,
        },
      ],
    }));
  const vector = (path: string, key: string, shape: readonly number[]): TensorDef => ({
    key,
    name: `${path}${key}`,
    shape,
    isBias: true,
  });
  return {
    tensors: (path) => [
      {
        key: 'mlp.router.weight',
        name: `${path}mlp.router.weight`,
        shape: [expertCount, H],
        isRouter: true,
      },
      vector(path, 'mlp.router.bias', [expertCount]),
      ...fused(path, 'gate_up_proj', 2 * I, H),
      vector(path, 'mlp.experts.gate_up_proj_bias', [expertCount, 2 * I]),
      ...fused(path, 'down_proj', H, I),
      vector(path, 'mlp.experts.down_proj_bias', [expertCount, H]),
    ],
    add(k, w, norm, x) {
      // Not rounded: where two experts are nearly even, that would turn the choice.
      const normed = norm(k.floats(x.shape)); // [T, H]
      const logits = k.floats([dimension(x, 0), expertCount]);
      k.linear(normed, w.matrix('mlp.router.weight'), { bias: w('mlp.router.bias') }, logits);
      const routing = k.route(logits, chosen, { ...PLAIN_ROUTE, normalize: true }); // [T, chosen]
      const pairs = k.expertLinear(normed, routing, w.experts(gateUps)); // [T · chosen, 2·I]
      k.expertBias(pairs, routing, w('mlp.experts.gate_up_proj_bias'));
      const inner = k.gatedPairs(pairs, ALPHA, LIMIT); // [T · chosen, I]
      const outer = k.expertLinear(inner, routing, w.experts(downs)); // [T · chosen, H]
      k.expertBias(outer, routing, w('mlp.experts.down_proj_bias'));
      k.combine(outer, routing, { addTo: x });
    },
  };
}
