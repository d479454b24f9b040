// Mistral (Jiang et al. 2023): Llama's block, with a sliding attention window in all layers.

import type { Architecture } from './architecture.js';
import { hasWindow, readLayerWindows } from './layer-windows.js';
import { buildLlama } from './llama.js';

export const mistral: Architecture = {
  modelTypes: ['mistral'],
  isShareable: true,
  build: (config) => {
    const slides = hasWindow(config);
    return buildLlama(config, {
      architecture: 'mistral',
      qkvBias: false,
      outBias: false,
      mlpBias: false,
      defaultContext: 4096 * 32,
      windowTokens: readLayerWindows(config, config.count(['num_hidden_layers']), () => slides, 4096),
    });
  },
};
