// SmolLM3 (Bakouch et al. 2025): Llama's block, of which every fourth does not rotate.

import type { Architecture } from './architecture.js';
import { readLayerWindows } from './layer-windows.js';
import { buildLlama } from './llama.js';
import { readRotatingLayers } from './rotating-layers.js';

export const smollm3: Architecture = {
  modelTypes: ['smollm3'],
  isShareable: true,
  build: (config) => {
    const bias = config.flag(['attention_bias'], false);
    const blockCount = config.count(['num_hidden_layers']);
    const rotates = readRotatingLayers(config, blockCount, 4);
    const slides = config.flag(['use_sliding_window'], false) && config.raw('sliding_window') !== undefined;
    return buildLlama(config, {
      architecture: 'smollm3',
      qkvBias: bias,
      outBias: bias,
      mlpBias: config.flag(['mlp_bias'], false),
      defaultContext: 32768,
      defaultRopeBase: 2e6,
      tiedByDefault: true,
      rotates,
      windowTokens: readLayerWindows(config, blockCount, (index) => slides && !rotates(index)),
    });
  },
};
