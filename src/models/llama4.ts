// Llama 4, its text part (Meta 2025): Llama's block that mostly sees chunks of the text, with experts whose inputs are scaled.

import { PLAIN_ROUTE, type PositionScale } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture } from './architecture.js';
import { type FeedForward, gatedFeedForward } from './feed-forward.js';
import { buildLlama } from './llama.js';
import { mixtureFeedForward, readChoices } from './mixture.js';
import { readRotatingLayers } from './rotating-layers.js';
import { feedForwards, readLayerList } from './sparse-layers.js';

export const llama4: Architecture = {
  modelTypes: ['llama4_text'],
  build: (config) => {
    const blockCount = config.count(['num_hidden_layers']);
    const rotates = readRotatingLayers(config, blockCount, 4);
    const attentionBias = config.flag(['attention_bias'], false);
    const scaled = config.flag(['attn_temperature_tuning'], true) ? readQueryScale(config) : undefined;
    return buildLlama(config, {
      architecture: 'llama4_text',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: false,
      defaultContext: 131072,
      defaultHeadDim: 128,
      defaultEps: 1e-5,
      defaultRopeBase: 500000,
      interleaved: true,
      rotates,
      ...(config.flag(['use_qk_norm'], true)
        ? { queryKeyNorm: { over: 'head', afterRotary: true, only: rotates } as const }
        : {}),
      queryScaleOf: (index) => (rotates(index) ? undefined : scaled),
      windowTokens: () => 0,
      chunkTokens: readChunks(config, blockCount, rotates),
      feedForward: readFeedForwards(config, blockCount),
    });
  },
};

/** Queries of layers that do not rotate grow with their position. */
function readQueryScale(config: ConfigReader): PositionScale {
  return {
    beta: config.number(['attn_scale'], 0.1),
    offset: 1,
    length: config.count(['floor_scale'], 8192),
  };
}

/** Tokens of the runs that a layer sees one of; 0 where it sees all. */
function readChunks(
  config: ConfigReader,
  blockCount: number,
  byDefault: (index: number) => boolean,
): (blockIndex: number) => number {
  const listed = config.optionalTexts(['layer_types'], blockCount);
  const isChunked = Array.from({ length: blockCount }, (_, index) => {
    const type = listed?.[index];
    if (type === undefined) return byDefault(index);
    if (type === 'chunked_attention' || type === 'full_attention') return type === 'chunked_attention';
    throw config.unsupported('layer_types', type, 'chunked_attention, full_attention');
  });
  const chunk = isChunked.includes(true) ? config.count(['attention_chunk_size'], 8192) : 0;
  return (index) => (isChunked[index] ? chunk : 0);
}

function readFeedForwards(config: ConfigReader, blockCount: number): (blockIndex: number) => FeedForward {
  const H = config.count(['hidden_size']);
  const I = config.count(['intermediate_size'], 8192);
  const activation = readActivation(config, ['hidden_act'], 'silu');
  const { expertCount, chosen } = readChoices(config, { experts: 16, chosen: 1 });
  const experts = mixtureFeedForward({
    H,
    I,
    expertCount,
    activation,
    scalesInputs: true,
    router: {
      names: ['feed_forward.router.weight'],
      chosen,
      rule: { ...PLAIN_ROUTE, score: 'sigmoid' },
    },
    names: {
      gate: (e) => `feed_forward.experts.${e}.gate_proj.weight`,
      up: (e) => `feed_forward.experts.${e}.up_proj.weight`,
      down: (e) => `feed_forward.experts.${e}.down_proj.weight`,
      fused: ['feed_forward.experts.gate_up_proj', 'feed_forward.experts.down_proj'],
      inputsFirst: true,
    },
    shared: gatedFeedForward({ H, I, activation, at: ['feed_forward.shared_expert'] }),
  });
  const step = config.count(['interleave_moe_layer_step'], 1);
  const listed =
    config.raw('moe_layers') === undefined ? undefined : readLayerList(config, 'moe_layers', blockCount);
  const isSparse = (index: number) => listed?.has(index) ?? (index + 1) % step === 0;
  return feedForwards(blockCount, isSparse, experts, () =>
    gatedFeedForward({
      H,
      I: config.count(['intermediate_size_mlp'], 16384),
      activation,
      at: ['feed_forward'],
    }),
  );
}
