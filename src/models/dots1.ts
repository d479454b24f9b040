// dots.llm1 (rednote-hilab 2025): Qwen3's attention, DeepSeek's mixture.

import type { Architecture } from './architecture.js';
import { hasWindow, readLayerWindows } from './layer-windows.js';
import { buildLlama } from './llama.js';
import { deepseekFeedForwards } from './shared-experts.js';

export const dots1: Architecture = {
  modelTypes: ['dots1'],
  isShareable: true,
  build: (config) => {
    const attentionBias = config.flag(['attention_bias'], false);
    const first = config.number(['max_window_layers'], 62);
    const blockCount = config.count(['num_hidden_layers']);
    return buildLlama(config, {
      architecture: 'dots1',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: false,
      headNorms: true,
      defaultContext: 2048,
      windowTokens: readLayerWindows(
        config,
        blockCount,
        (index) => hasWindow(config) && index >= first,
        4096,
      ),
      feedForward: deepseekFeedForwards(config, {
        I: 1408,
        denseI: 10944,
        experts: 128,
        chosen: 6,
        shared: 2,
        dense: 0,
        normalized: false,
      }),
    });
  },
};
