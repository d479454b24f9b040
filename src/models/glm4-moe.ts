// GLM-4.5 to 4.7 (Zeng et al. 2025): Llama's block with half of each head turned, and DeepSeek's mixture in most layers.

import type { RouteRule } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import type { Architecture, ArchitectureModel } from './architecture.js';
import { denseFeedForward, type FeedForward, gatedFeedForward } from './feed-forward.js';
import { buildLlama } from './llama.js';
import { MLP_EXPERTS, mixtureFeedForward, readChoices } from './mixture.js';
import { checkGroups, deepseekRule } from './routers.js';
import { afterDenseLayers, feedForwards, readSparseLayers } from './sparse-layers.js';

export const glm4Moe: Architecture = {
  modelTypes: ['glm4_moe'],
  build: (config) =>
    build(config, {
      architecture: 'glm4_moe',
      bias: false,
      headNorms: config.flag(['use_qk_norm'], false),
      defaultContext: 131072,
    }),
};

/** The text part of GLM-4.5V and 4.6V. */
export const glm4vMoe: Architecture = {
  modelTypes: ['glm4v_moe_text'],
  build: (config) => {
    config.refuseUnless(false, 'use_qk_norm');
    return build(config, {
      architecture: 'glm4v_moe',
      bias: true,
      headNorms: false,
      defaultContext: 65536,
      axes: true,
    });
  },
};

interface Traits {
  readonly architecture: string;
  /** Where the configuration does not say it. */
  readonly bias: boolean;
  readonly headNorms: boolean;
  readonly defaultContext: number;
  readonly axes?: boolean;
}

function build(config: ConfigReader, { bias, axes = false, ...traits }: Traits): ArchitectureModel {
  return buildLlama(config, {
    ...traits,
    qkvBias: config.flag(['attention_bias'], bias),
    outBias: false,
    mlpBias: false,
    defaultEps: 1e-5,
    rope: { partNames: ['partial_rotary_factor'], defaultPart: 0.5, axes },
    feedForward: deepseekFeedForwards(config, {
      I: 1408,
      denseI: 10944,
      experts: 128,
      chosen: 8,
      shared: 1,
      dense: 1,
      normalized: true,
    }),
  });
}

/** What holds where the configuration says nothing. */
export interface DeepseekMixture {
  readonly I: number;
  readonly denseI: number;
  readonly experts: number;
  readonly chosen: number;
  /** Experts that every token goes to. */
  readonly shared: number;
  /** Layers without any, which are the first. */
  readonly dense: number;
  readonly normalized: boolean;
  /** Groups of experts, and how many of them are kept. */
  readonly groups?: readonly [number, number];
  readonly scale?: number;
  /** Layers that are mixtures where no list says it; otherwise all but the dense ones. */
  readonly sparse?: (blockIndex: number) => boolean;
  /** Another router than DeepSeek-V3's. */
  readonly ruled?: {
    readonly rule: (config: ConfigReader, expertCount: number) => RouteRule;
    readonly hasBias: boolean;
  };
}

/** DeepSeek-V3's feed-forwards: some dense layers, then experts of which all tokens go to the shared ones. */
export function deepseekFeedForwards(
  config: ConfigReader,
  usual: DeepseekMixture,
): (blockIndex: number) => FeedForward {
  const { ruled } = usual;
  const H = config.count(['hidden_size']);
  const I = config.count(['moe_intermediate_size'], usual.I);
  const blockCount = config.count(['num_hidden_layers']);
  const activation = readActivation(config, ['hidden_act'], 'silu');
  const { expertCount, chosen } = readChoices(config, usual);
  const rule = ruled?.rule(config, expertCount) ?? deepseekRule(config, expertCount, usual);
  checkGroups(config, rule, { expertCount, chosen });
  const shared = config.number(['n_shared_experts'], usual.shared);
  const experts = mixtureFeedForward({
    H,
    I,
    expertCount,
    activation,
    router: {
      names: ['mlp.gate.weight'],
      chosen,
      rule,
      ...(ruled?.hasBias === false ? {} : { bias: { names: ['mlp.gate.e_score_correction_bias'] } }),
    },
    names: MLP_EXPERTS,
    shared:
      shared > 0 ? gatedFeedForward({ H, I: I * shared, activation, at: ['mlp.shared_experts'] }) : undefined,
  });
  const isSparse = readSparseLayers(
    config,
    blockCount,
    usual.sparse ?? afterDenseLayers(config, usual.dense),
  );
  return feedForwards(blockCount, isSparse, experts, () =>
    denseFeedForward(H, config.count(['intermediate_size'], usual.denseI), activation),
  );
}
