// Ministral 3 (Mistral AI 2025): Mistral's block, with queries that grow with their position.

import type { PositionScale } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { Architecture } from './architecture.js';
import { readLayerWindows } from './layer-windows.js';
import { buildLlama } from './llama.js';
import { requireRotation } from './rope.js';

export const ministral3: Architecture = {
  modelTypes: ['ministral3'],
  isShareable: true,
  build: (config) => {
    requireRotation(config);
    const slides = config.raw('sliding_window') !== undefined;
    const queryScale = readQueryScale(config);
    return buildLlama(config, {
      architecture: 'ministral3',
      qkvBias: false,
      outBias: false,
      mlpBias: false,
      defaultContext: 262144,
      defaultHeadDim: 128,
      defaultEps: 1e-5,
      queryScaleOf: () => queryScale,
      windowTokens: readLayerWindows(config, config.count(['num_hidden_layers']), () => slides),
    });
  },
};

/** `llama_4_scaling_beta` of the rotations' parameters. */
export function readQueryScale(config: ConfigReader): PositionScale | undefined {
  const parameters = config.object('rope_scaling', 'rope_parameters');
  const beta = parameters?.number(['llama_4_scaling_beta'], 0) ?? 0;
  if (!parameters || beta === 0) return undefined;
  const trained = config.count(['max_position_embeddings'], 262144);
  return { beta, offset: 0, length: parameters.count(['original_max_position_embeddings'], trained) };
}
