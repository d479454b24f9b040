// Qwen2-MoE and Qwen3-MoE (Yang et al. 2024, 2025): Qwen's blocks with a mixture of many small experts in most layers.

import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { denseFeedForward, type FeedForward, gatedFeedForward } from './feed-forward.js';
import { hasWindow, readLayerWindows } from './layer-windows.js';
import { buildLlama } from './llama.js';
import { MLP_EXPERTS, mixtureFeedForward, readChoices, refuseSharedExperts } from './mixture.js';
import { windowsIfUsed } from './qwen2.js';
import { softmaxRule } from './routers.js';
import { feedForwards, readLayerList, readSparseLayers } from './sparse-layers.js';

export const qwen3Moe: Architecture = {
  modelTypes: ['qwen3_moe'],
  isShareable: true,
  build: (config) => {
    refuseSharedExperts(config);
    const attentionBias = config.flag(['attention_bias'], false);
    const experts = qwenExperts(config, { I: 768, experts: 128, chosen: 8, normalized: false });
    return buildLlama(config, {
      architecture: 'qwen3_moe',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: false,
      headNorms: true,
      defaultContext: 32768,
      windowTokens: windowOfAll(config),
      feedForward: qwenFeedForwards(config, experts, 6144),
    });
  },
};

/** Unlike in Qwen3, the window is that of all layers, whatever `layer_types` lists. */
function windowOfAll(config: ConfigReader): (blockIndex: number) => number {
  const slides = config.flag(['use_sliding_window'], false) && hasWindow(config);
  const blockCount = config.count(['num_hidden_layers']);
  const windows = readLayerWindows(config, blockCount, () => slides, 4096);
  const other = Array.from({ length: blockCount }, (_, index) => windows(index) > 0).includes(!slides);
  if (other) {
    const only = slides ? 'sliding_attention with use_sliding_window' : 'full_attention without it';
    throw config.unsupported('layer_types', config.raw('layer_types'), only);
  }
  return windows;
}

/** Qwen3-VL-MoE's text part: always normalised, and the tensors of all experts are stored inputs first. */
export const qwen3VlMoe: Architecture = {
  modelTypes: ['qwen3_vl_moe_text'],
  isShareable: true,
  build: (config) => {
    refuseSharedExperts(config);
    config.refuseUnless(true, 'norm_topk_prob');
    const attentionBias = config.flag(['attention_bias'], false);
    const usual = { I: 1408, experts: 60, chosen: 4, normalized: true, inputsFirst: true };
    return buildLlama(config, {
      architecture: 'qwen3_vl_moe',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: false,
      headNorms: true,
      defaultContext: 128000,
      defaultRopeBase: 500000,
      rope: { axes: true },
      windowTokens: () => 0,
      feedForward: qwenFeedForwards(config, qwenExperts(config, usual), 5632),
    });
  },
};

export const qwen2Moe: Architecture = {
  modelTypes: ['qwen2_moe'],
  isShareable: true,
  build: (config) => {
    const below = config.number(['max_window_layers'], 28);
    const experts = qwenExperts(config, {
      I: 1408,
      experts: 60,
      chosen: 4,
      normalized: false,
      shared: qwenSharedExpert(config, 5632),
    });
    return buildLlama(config, {
      architecture: 'qwen2_moe',
      qkvBias: config.flag(['qkv_bias'], true),
      outBias: false,
      mlpBias: false,
      defaultContext: 32768,
      // Every other one of the lower layers slides.
      windowTokens: windowsIfUsed(config, (index) => index % 2 === 0 && index < below),
      feedForward: qwenFeedForwards(config, experts, 5632),
    });
  },
};

interface QwenExperts {
  /** Where the configuration gives none. */
  readonly I: number;
  readonly experts: number;
  readonly chosen: number;
  readonly normalized: boolean;
  readonly shared?: FeedForward;
  /** See ExpertNames. */
  readonly inputsFirst?: boolean;
}

/** The mixture of every generation; later ones are always normalised. */
export function qwenExperts(config: ConfigReader, usual: QwenExperts): FeedForward {
  const { expertCount, chosen } = readChoices(config, usual);
  return mixtureFeedForward({
    H: config.count(['hidden_size']),
    I: config.shared(config.count(['moe_intermediate_size'], usual.I), 'moe_intermediate_size'),
    expertCount,
    activation: readActivation(config, ['hidden_act'], 'silu'),
    router: { names: ['mlp.gate.weight'], chosen, rule: softmaxRule(config, usual.normalized) },
    names: { ...MLP_EXPERTS, inputsFirst: usual.inputsFirst ?? false },
    shared: usual.shared,
  });
}

/** What every token goes to, times a sigmoid of the token. */
export function qwenSharedExpert(config: ConfigReader, I: number): FeedForward {
  return gatedFeedForward({
    H: config.count(['hidden_size']),
    I: config.shared(config.count(['shared_expert_intermediate_size'], I), 'shared_expert_intermediate_size'),
    activation: readActivation(config, ['hidden_act'], 'silu'),
    at: ['mlp.shared_expert'],
    tokenGate: 'mlp.shared_expert_gate.weight',
  });
}

/** Every `decoder_sparse_step`-th layer has experts, except those that `mlp_only_layers` lists. */
export function qwenFeedForwards(
  config: ConfigReader,
  experts: FeedForward,
  defaultInner: number,
): (blockIndex: number) => FeedForward {
  const blockCount = config.count(['num_hidden_layers']);
  const step = config.count(['decoder_sparse_step'], 1);
  const listed = readLayerList(config, 'mlp_only_layers', blockCount);
  const isSparse = readSparseLayers(
    config,
    blockCount,
    (index) => !listed.has(index) && (index + 1) % step === 0,
  );
  return feedForwards(blockCount, isSparse, experts, () => {
    const activation = readActivation(config, ['hidden_act'], 'silu');
    return denseFeedForward(
      config.count(['hidden_size']),
      config.shared(config.count(['intermediate_size'], defaultInner), 'intermediate_size'),
      activation,
    );
  });
}
