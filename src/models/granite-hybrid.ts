// Granite 4 (IBM 2025): Granite's block with Mamba 2 in most layers, and a feed-forward that every token goes to, beside a mixture or
// alone.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { type FeedForward, fusedFeedForward } from './feed-forward.js';
import { graniteExperts, graniteFactors } from './granite.js';
import { buildLlama, everywhere } from './llama.js';
import { mamba, readStepLimits } from './mamba.js';
import { type Mixer, readMixedLayers } from './mixer.js';

export const graniteHybrid: Architecture = {
  modelTypes: ['granitemoehybrid'],
  build: (config) => {
    const H = config.count(['hidden_size']);
    const types = readMixedLayers(config, config.count(['num_hidden_layers']), () => 'linear_attention');
    const mixer = types.includes('linear_attention') ? readMamba(config, H) : undefined;
    const bias = config.flag(['attention_bias'], false);
    const rotates = readPositions(config);
    return buildLlama(config, {
      architecture: 'granitemoehybrid',
      qkvBias: bias,
      outBias: bias,
      mlpBias: false,
      defaultContext: 2048,
      rotates: () => rotates,
      windowTokens: () => 0,
      mixer: (index) => (types[index] === 'linear_attention' ? mixer : undefined),
      feedForward: everywhere(readFeedForward(config, H)),
      ...graniteFactors(config),
    });
  },
};

function readPositions(config: ConfigReader): boolean {
  const type = config.raw('position_embedding_type');
  if (type === undefined || type === 'nope') return false;
  if (type === 'rope') return true;
  throw config.unsupported('position_embedding_type', type, 'rope, nope');
}

function readMamba(config: ConfigReader, H: number): Mixer {
  config.refuseUnless('silu', 'hidden_act');
  const heads = config.count(['mamba_n_heads'], 128);
  const I = config.count(['mamba_expand'], 2) * H;
  const P = config.divided(I, heads, 'mamba_expand times hidden_size over mamba_n_heads');
  const given = config.raw('mamba_d_head') ?? 'auto';
  if (given !== 'auto' && given !== P) throw config.unsupported('mamba_d_head', given, `auto, ${P}`);
  const groups = config.count(['mamba_n_groups'], 1);
  config.divided(heads, groups, 'mamba_n_heads over mamba_n_groups');
  return mamba('mamba', {
    H,
    heads,
    P,
    N: config.count(['mamba_d_state'], 256),
    groups,
    normGroups: 1,
    W: config.count(['mamba_d_conv'], 4),
    convBias: config.flag(['mamba_conv_bias'], true),
    bias: config.flag(['mamba_proj_bias'], false),
    eps: config.number(['rms_norm_eps'], 1e-6),
    ...readStepLimits(config),
  });
}

/** Beside a mixture, or alone where there are no experts. */
function readFeedForward(config: ConfigReader, H: number): FeedForward {
  const activation = readActivation(config, ['hidden_act'], 'silu');
  const I = config.count(['shared_intermediate_size'], 1024);
  const shared = fusedFeedForward(H, I, activation, [
    'shared_mlp.input_linear.weight',
    'shared_mlp.output_linear.weight',
  ]);
  return config.raw('num_local_experts') === 0 ? shared : graniteExperts(config, shared);
}
