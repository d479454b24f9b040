// Qwen3-MoE (Yang et al. 2025): Qwen3's block with a mixture of many small experts in most layers.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { denseFeedForward, readChoices, sparseFeedForward } from './feed-forward.js';
import { hasWindow, readLayerWindows } from './layer-windows.js';
import { buildLlama } from './llama.js';

export const qwen3Moe: Architecture = {
  modelTypes: ['qwen3_moe'],
  build: (config) => {
    const H = config.count(['hidden_size']);
    const blockCount = config.count(['num_hidden_layers']);
    const activation = readActivation(config, ['hidden_act'], 'silu');
    const attentionBias = config.flag(['attention_bias'], false);
    // Unlike in Qwen3, the window is that of all layers.
    const slides = config.flag(['use_sliding_window'], false) && hasWindow(config);
    const experts = sparseFeedForward({
      H,
      I: config.count(['moe_intermediate_size'], 768),
      ...readChoices(config, { experts: 128, chosen: 8 }),
      normalize: config.flag(['norm_topk_prob'], false),
      activation,
      router: 'mlp.gate.weight',
      gate: (e) => `mlp.experts.${e}.gate_proj.weight`,
      up: (e) => `mlp.experts.${e}.up_proj.weight`,
      down: (e) => `mlp.experts.${e}.down_proj.weight`,
    });
    const isSparse = readSparseLayers(config, blockCount);
    const allSparse = Array.from({ length: blockCount }, (_, index) => isSparse(index)).every(Boolean);
    const dense = allSparse
      ? experts
      : denseFeedForward(H, config.count(['intermediate_size'], 6144), activation);
    return buildLlama(config, {
      architecture: 'qwen3_moe',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: false,
      headNorms: true,
      defaultContext: 32768,
      windowTokens: readLayerWindows(config, blockCount, () => slides, 4096),
      feedForward: (index) => (isSparse(index) ? experts : dense),
    });
  },
};

/** Every `decoder_sparse_step`-th layer has experts, except those that `mlp_only_layers` lists. */
function readSparseLayers(config: ConfigReader, blockCount: number): (blockIndex: number) => boolean {
  const step = config.count(['decoder_sparse_step'], 1);
  const listed = config.raw('mlp_only_layers') ?? [];
  const isLayer = (index: unknown) => typeof index === 'number' && index >= 0 && index < blockCount;
  if (!Array.isArray(listed) || !listed.every(isLayer)) {
    throw config.unsupported('mlp_only_layers', listed, `lists of layers from 0 to ${blockCount - 1}`);
  }
  const dense = new Set(listed);
  return (index) => !dense.has(index) && (index + 1) % step === 0;
}
