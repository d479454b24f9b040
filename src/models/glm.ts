// GLM-4 (Zeng et al. 2024): Llama's block, half of each head turned in neighbouring pairs, gate and up in one matrix; since
// the releases of 2025 also with norms behind each half.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture, ArchitectureModel } from './architecture.js';
import { fusedFeedForward } from './feed-forward.js';
import { type BlockNorms, buildLlama, everywhere, LLAMA_NORMS } from './llama.js';

const NORMS_AROUND: BlockNorms = {
  ...LLAMA_NORMS,
  attentionOut: 'post_self_attn_layernorm',
  feedOut: 'post_mlp_layernorm',
};

export const glm: Architecture = {
  modelTypes: ['glm'],
  build: (config) => build(config, 'glm', LLAMA_NORMS),
};
export const glm4: Architecture = {
  modelTypes: ['glm4'],
  build: (config) => build(config, 'glm4', NORMS_AROUND),
};

function build(config: ConfigReader, architecture: string, norms: BlockNorms): ArchitectureModel {
  const H = config.count(['hidden_size']);
  const activation = readActivation(config, ['hidden_act'], 'silu');
  return buildLlama(config, {
    architecture,
    qkvBias: config.flag(['attention_bias'], true),
    outBias: false,
    mlpBias: false,
    defaultContext: 131072,
    defaultHeadDim: 128,
    defaultEps: 1.5625e-7,
    norms,
    interleaved: true,
    rope: { partNames: ['partial_rotary_factor'], defaultPart: 0.5 },
    feedForward: everywhere(fusedFeedForward(H, config.count(['intermediate_size']), activation)),
  });
}
