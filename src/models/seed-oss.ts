// Seed-OSS (ByteDance 2025): Llama's block with biased queries, keys and values.

import type { Architecture } from './architecture.js';
import { buildLlama } from './llama.js';

export const seedOss: Architecture = {
  modelTypes: ['seed_oss'],
  isShareable: true,
  build: (config) =>
    buildLlama(config, {
      architecture: 'seed_oss',
      qkvBias: config.flag(['attention_bias'], true),
      outBias: config.flag(['attention_out_bias'], false),
      mlpBias: config.flag(['mlp_bias'], false),
      defaultContext: 524288,
      defaultHeadDim: 128,
    }),
};
