// GLM-4 (Zeng et al. 2024): Llama's block, half of each head turned in neighbouring pairs, gate and up in one matrix; since
// the releases of 2025 also with norms behind each half.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture, ArchitectureModel } from './architecture.js';
import { fusedFeedForward } from './feed-forward.js';
import { type BlockNorms, buildLlama, everywhere, LLAMA_NORMS, type LlamaTraits } from './llama.js';

const NORMS_AROUND: BlockNorms = {
  ...LLAMA_NORMS,
  attentionOut: 'post_self_attn_layernorm',
  feedOut: 'post_mlp_layernorm',
};

export const glm: Architecture = {
  modelTypes: ['glm'],
  isShareable: true,
  build: (config) => build(config, { architecture: 'glm', norms: LLAMA_NORMS }),
};
export const glm4: Architecture = {
  modelTypes: ['glm4'],
  isShareable: true,
  build: (config) => build(config, { architecture: 'glm4', norms: NORMS_AROUND }),
};

/** The text part of GLM-4.1V and 4.6V-Flash. */
export const glm4v: Architecture = {
  modelTypes: ['glm4v_text'],
  isShareable: true,
  build: (config) => {
    const H = config.count(['hidden_size']);
    const D = config.divided(
      H,
      config.count(['num_attention_heads']),
      'hidden_size over num_attention_heads',
    );
    config.refuseUnless(D, 'head_dim');
    config.refuseUnless(true, 'attention_bias');
    return build(config, {
      architecture: 'glm4v',
      norms: NORMS_AROUND,
      defaultContext: 32768,
      defaultHeadDim: D,
      defaultEps: 1e-5,
      rope: { partNames: ['partial_rotary_factor'], axes: true },
    });
  },
};

type Traits = Pick<LlamaTraits, 'architecture' | 'norms'> &
  Partial<Pick<LlamaTraits, 'defaultContext' | 'defaultHeadDim' | 'defaultEps' | 'rope'>>;

function build(config: ConfigReader, traits: Traits): ArchitectureModel {
  const H = config.count(['hidden_size']);
  const activation = readActivation(config, ['hidden_act'], 'silu');
  return buildLlama(config, {
    qkvBias: config.flag(['attention_bias'], true),
    outBias: false,
    mlpBias: false,
    defaultContext: 131072,
    defaultHeadDim: 128,
    defaultEps: 1.5625e-7,
    interleaved: true,
    rope: { partNames: ['partial_rotary_factor'], defaultPart: 0.5 },
    ...traits,
    feedForward: everywhere(
      fusedFeedForward(
        H,
        config.shared(config.count(['intermediate_size']), 'intermediate_size'),
        activation,
      ),
    ),
  });
}
