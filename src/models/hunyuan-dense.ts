// Hunyuan (Tencent 2025), its dense models: Llama's block, queries and keys normed head by head after they have rotated.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { Architecture } from './architecture.js';
import { buildLlama } from './llama.js';

export const hunyuanDense: Architecture = {
  modelTypes: ['hunyuan_v1_dense'],
  isShareable: true,
  build: (config) => buildLlama(config, { ...hunyuanTraits(config), architecture: 'hunyuan_v1_dense' }),
};

/** What the mixtures have as well. */
export function hunyuanTraits(config: ConfigReader) {
  const bias = config.flag(['attention_bias'], false);
  return {
    qkvBias: bias,
    outBias: bias,
    mlpBias: false,
    defaultContext: 2048,
    defaultEps: 1e-5,
    rope: { fixedAlpha: true },
    queryKeyNorm: {
      over: 'head',
      afterRotary: true,
      names: ['self_attn.query_layernorm', 'self_attn.key_layernorm'],
    },
  } as const;
}
