// Granite 3 (IBM 2024): Llama's block with factors on embeddings, on scores, on what each half adds, and under logits.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { Architecture } from './architecture.js';
import { buildLlama } from './llama.js';

export const granite: Architecture = {
  modelTypes: ['granite'],
  build: (config) => {
    const bias = config.flag(['attention_bias'], false);
    return buildLlama(config, {
      architecture: 'granite',
      qkvBias: bias,
      outBias: bias,
      mlpBias: config.flag(['mlp_bias'], false),
      defaultContext: 2048,
      ...graniteFactors(config),
    });
  },
};

/** The four factors as traits; none may be 0. */
export function graniteFactors(config: ConfigReader) {
  const factor = (name: string) => {
    const value = config.number([name], 1);
    if (value === 0) throw config.unsupported(name, value, 'numbers other than 0');
    return value;
  };
  return {
    embeddingScale: factor('embedding_multiplier'),
    residualScale: factor('residual_multiplier'),
    attentionScale: factor('attention_multiplier'),
    logits: { scale: 1 / factor('logits_scaling'), softCap: 0 },
  };
}
