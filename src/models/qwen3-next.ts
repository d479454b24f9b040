// Qwen3-Next and Qwen3.5 (2025): three layers of Gated DeltaNet to one of attention whose output is gated, with a dense
// feed-forward or a mixture beside an expert that every token goes to.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { Architecture, ArchitectureModel } from './architecture.js';
import type { FeedForward } from './feed-forward.js';
import { gatedDelta } from './gated-delta.js';
import { buildLlama, everywhere } from './llama.js';
import { readMixedLayers } from './mixer.js';
import { qwenExperts, qwenFeedForwards, qwenSharedExpert } from './qwen3-moe.js';

export const qwen35: Architecture = {
  modelTypes: ['qwen3_5_text'],
  build: (config) => build(config, { architecture: 'qwen3_5', byKeyHead: false }),
};

export const qwen35Moe: Architecture = {
  modelTypes: ['qwen3_5_moe_text'],
  build: (config) => {
    // Always normalised, whatever is said.
    config.refuseUnless(true, 'norm_topk_prob');
    const experts = readExperts(config, 256, 8);
    return build(config, { architecture: 'qwen3_5_moe', byKeyHead: false, feedForward: everywhere(experts) });
  },
};

export const qwen3Next: Architecture = {
  modelTypes: ['qwen3_next'],
  build: (config) => {
    const feedForward = qwenFeedForwards(config, readExperts(config, 512, 10), 5632);
    return build(config, { architecture: 'qwen3_next', byKeyHead: true, feedForward });
  },
};

function readExperts(config: ConfigReader, experts: number, chosen: number): FeedForward {
  const shared = qwenSharedExpert(config, 512);
  return qwenExperts(config, { I: 512, experts, chosen, normalized: true, shared });
}

interface Traits {
  readonly architecture: string;
  /** How the projections of linear layers are stored. */
  readonly byKeyHead: boolean;
  readonly feedForward?: (blockIndex: number) => FeedForward;
}

function build(config: ConfigReader, { architecture, byKeyHead, feedForward }: Traits): ArchitectureModel {
  config.refuseUnless(true, 'attn_output_gate');
  const blockCount = config.count(['num_hidden_layers']);
  const interval = config.count(['full_attention_interval'], 4);
  const types = readMixedLayers(config, blockCount, (index) =>
    (index + 1) % interval === 0 ? 'full_attention' : 'linear_attention',
  );
  const mixer = gatedDelta(config, config.count(['hidden_size']), byKeyHead);
  const bias = config.flag(['attention_bias'], false);
  return buildLlama(config, {
    architecture,
    qkvBias: bias,
    outBias: bias,
    mlpBias: false,
    normsFromOne: true,
    headNorms: true,
    gatedAttention: true,
    defaultContext: 32768,
    defaultHeadDim: 256,
    rope: { partNames: ['partial_rotary_factor'], defaultPart: 0.25 },
    windowTokens: () => 0,
    mixer: (index) => (types[index] === 'linear_attention' ? mixer : undefined),
    ...(feedForward ? { feedForward } : {}),
  });
}
