// Mixtures after DeepSeek's: experts that every token goes to beside those that are chosen, and layers without any.

import type { RouteRule } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { denseFeedForward, type FeedForward, gatedFeedForward } from './feed-forward.js';
import { MLP_EXPERTS, mixtureFeedForward, type Router, readChoices } from './mixture.js';
import { checkGroups, deepseekRule } from './routers.js';
import { afterDenseLayers, feedForwards, readSparseLayers } from './sparse-layers.js';

export interface SharedExperts {
  /** Inner size of a chosen expert. */
  readonly I: number;
  readonly expertCount: number;
  readonly router: Router;
  /** Inner size of what every token goes to, all of it together, 0 where there is none; and its names, the usual one first. */
  readonly sharedI: number;
  readonly sharedAt?: readonly string[];
  readonly isSparse: (blockIndex: number) => boolean;
  /** Inner size of the other layers where the configuration does not say it. */
  readonly denseI?: number;
  /** Whether shared experts and the other layers have biases. */
  readonly bias?: boolean;
}

/** Each layer's feed-forward: gated ones everywhere, of the activation that the configuration says. */
export function sharedExperts(
  config: ConfigReader,
  {
    I,
    expertCount,
    router,
    sharedI,
    sharedAt: at = ['mlp.shared_experts'],
    isSparse,
    denseI,
    bias = false,
  }: SharedExperts,
): (blockIndex: number) => FeedForward {
  const H = config.count(['hidden_size']);
  const activation = readActivation(config, ['hidden_act'], 'silu');
  const inner = (size: number) => config.shared(size, 'inner size');
  const shared = sharedI > 0 ? gatedFeedForward({ H, I: inner(sharedI), activation, bias, at }) : undefined;
  const experts = mixtureFeedForward({
    H,
    I: inner(I),
    expertCount,
    activation,
    router,
    names: MLP_EXPERTS,
    shared,
  });
  return feedForwards(config.count(['num_hidden_layers']), isSparse, experts, () =>
    denseFeedForward(H, inner(config.count(['intermediate_size'], denseI)), activation, bias),
  );
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
  const I = config.count(['moe_intermediate_size'], usual.I);
  const { expertCount, chosen } = readChoices(config, usual);
  const rule = ruled?.rule(config, expertCount) ?? deepseekRule(config, expertCount, usual);
  checkGroups(config, rule, { expertCount, chosen });
  const blockCount = config.count(['num_hidden_layers']);
  const byDefault = usual.sparse ?? afterDenseLayers(config, usual.dense);
  return sharedExperts(config, {
    I,
    expertCount,
    router: {
      names: ['mlp.gate.weight'],
      chosen,
      rule,
      ...(ruled?.hasBias === false ? {} : { bias: { names: ['mlp.gate.e_score_correction_bias'] } }),
    },
    sharedI: I * config.number(['n_shared_experts'], usual.shared),
    isSparse: readSparseLayers(config, blockCount, byDefault),
    denseI: usual.denseI,
  });
}
