// EXAONE 4 (LG 2025): norms behind each half, queries and keys normed by head; where layers slide, only those rotate.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { Architecture } from './architecture.js';
import { hasWindow, readLayerTypes, readPattern, windowsOf } from './layer-windows.js';
import { buildLlama, NORMS_BEHIND } from './llama.js';

export const exaone4: Architecture = {
  modelTypes: ['exaone4'],
  isShareable: true,
  build: (config) => {
    const blockCount = config.count(['num_hidden_layers']);
    const slides = hasWindow(config);
    const types = readLayerTypes(
      config,
      blockCount,
      slides ? slidesByPattern(config, blockCount) : () => false,
    );
    if (!slides && types.includes('sliding_attention'))
      throw config.unsupported('layer_types', 'sliding_attention', 'full_attention without sliding_window');
    return buildLlama(config, {
      architecture: 'exaone4',
      qkvBias: false,
      outBias: false,
      mlpBias: false,
      defaultContext: 2048,
      defaultEps: 1e-5,
      norms: NORMS_BEHIND,
      headNorms: true,
      windowTokens: windowsOf(config, types, 4096),
      rotates: (index) => !slides || types[index] === 'sliding_attention',
    });
  },
};

/** A number, or letters that repeat: L for layers that slide, G for others, of which the last one is. */
function slidesByPattern(config: ConfigReader, blockCount: number): (blockIndex: number) => boolean {
  const pattern = config.raw('sliding_window_pattern');
  if (typeof pattern !== 'string') return readPattern(config, 4);
  if (!/^[LG]+$/.test(pattern))
    throw config.unsupported('sliding_window_pattern', pattern, 'numbers, letters L and G');
  return (index) => index < blockCount - 1 && pattern[index % pattern.length] === 'L';
}
