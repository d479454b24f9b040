// Qwen3 (Yang et al. 2025): Llama's block, queries and keys normed head by head; upper layers may slide.

import type { Architecture } from './architecture.js';
import { buildLlama } from './llama.js';
import { qwenWindows } from './qwen2.js';

/** Qwen3-VL's text part. */
export const qwen3Vl: Architecture = {
  modelTypes: ['qwen3_vl_text'],
  isShareable: true,
  build: (config) => {
    const attentionBias = config.flag(['attention_bias'], false);
    return buildLlama(config, {
      architecture: 'qwen3_vl',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: false,
      headNorms: true,
      defaultHeadDim: 128,
      defaultContext: 128000,
      defaultRopeBase: 500000,
      rope: { axes: true },
      windowTokens: () => 0,
    });
  },
};

export const qwen3: Architecture = {
  modelTypes: ['qwen3'],
  isShareable: true,
  build: (config) => {
    const attentionBias = config.flag(['attention_bias'], false);
    return buildLlama(config, {
      architecture: 'qwen3',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: false,
      headNorms: true,
      defaultHeadDim: 128,
      defaultContext: 32768,
      windowTokens: qwenWindows(config),
    });
  },
};
