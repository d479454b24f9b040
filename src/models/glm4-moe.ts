// GLM-4.5 to 4.7 (Zeng et al. 2025): Llama's block with half of each head turned, and DeepSeek's mixture in most layers.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { Architecture, ArchitectureModel } from './architecture.js';
import { buildLlama } from './llama.js';
import { deepseekFeedForwards } from './shared-experts.js';

export const glm4Moe: Architecture = {
  modelTypes: ['glm4_moe'],
  isShareable: true,
  build: (config) =>
    build(config, {
      architecture: 'glm4_moe',
      bias: false,
      headNorms: config.flag(['use_qk_norm'], false),
      defaultContext: 131072,
    }),
};

/** The text part of GLM-4.5V and 4.6V. */
export const glm4vMoe: Architecture = {
  modelTypes: ['glm4v_moe_text'],
  isShareable: true,
  build: (config) => {
    config.refuseUnless(false, 'use_qk_norm');
    return build(config, {
      architecture: 'glm4v_moe',
      bias: true,
      headNorms: false,
      defaultContext: 65536,
      axes: true,
    });
  },
};

interface Traits {
  readonly architecture: string;
  /** Where the configuration does not say it. */
  readonly bias: boolean;
  readonly headNorms: boolean;
  readonly defaultContext: number;
  readonly axes?: boolean;
}

function build(config: ConfigReader, { bias, axes = false, ...traits }: Traits): ArchitectureModel {
  return buildLlama(config, {
    ...traits,
    qkvBias: config.flag(['attention_bias'], bias),
    outBias: false,
    mlpBias: false,
    defaultEps: 1e-5,
    rope: { partNames: ['partial_rotary_factor'], defaultPart: 0.5, axes },
    feedForward: deepseekFeedForwards(config, {
      I: 1408,
      denseI: 10944,
      experts: 128,
      chosen: 8,
      shared: 1,
      dense: 1,
      normalized: true,
    }),
  });
}
