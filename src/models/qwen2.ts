// Qwen2 (Yang et al. 2024): Llama's block with biased queries, keys and values; upper layers may slide.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { Architecture } from './architecture.js';
import { hasWindow, readLayerWindows } from './layer-windows.js';
import { buildLlama } from './llama.js';

export const qwen2: Architecture = {
  modelTypes: ['qwen2'],
  isShareable: true,
  build: (config) =>
    buildLlama(config, {
      architecture: 'qwen2',
      qkvBias: true,
      outBias: false,
      mlpBias: false,
      defaultContext: 32768,
      windowTokens: qwenWindows(config),
    }),
};

/** The text parts of Qwen2-VL and Qwen2.5-VL. */
export const qwen2Vl: Architecture = {
  modelTypes: ['qwen2_vl_text', 'qwen2_5_vl_text'],
  isShareable: true,
  build: (config) =>
    buildLlama(config, {
      architecture: 'qwen2_vl',
      qkvBias: true,
      outBias: false,
      mlpBias: false,
      defaultContext: 32768,
      defaultEps: 1e-5,
      defaultRopeBase: 1e6,
      rope: { axes: true },
      windowTokens: qwenWindows(config, 80),
    }),
};

/** With `use_sliding_window`, layers from `max_window_layers` on slide, unless `layer_types` says which do. */
export function qwenWindows(config: ConfigReader, fullLayers = 28): (blockIndex: number) => number {
  const first = config.number(['max_window_layers'], fullLayers);
  return windowsIfUsed(config, (index) => index >= first);
}

/** The same for layers that a family says; without the flag their reference has a window of no tokens. */
export function windowsIfUsed(
  config: ConfigReader,
  slidesByDefault: (index: number) => boolean,
): (blockIndex: number) => number {
  const slides = config.flag(['use_sliding_window'], false) && hasWindow(config);
  const blockCount = config.count(['num_hidden_layers']);
  const windows = readLayerWindows(config, blockCount, (index) => slides && slidesByDefault(index), 4096);
  if (
    !slides &&
    Array.from({ length: blockCount }, (_, index) => windows(index)).some((tokens) => tokens > 0)
  )
    throw config.unsupported('layer_types', 'sliding_attention', 'full_attention without use_sliding_window');
  return windows;
}
