// DeepSeek-V2 to V3.2 (DeepSeek-AI 2024) and their relatives: latent attention, and mixtures of many small experts.

import { type LayerForward, PLAIN_ROUTE, type RouteRule, type Tensor } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import { embedTokens, project } from './decoder-parts.js';
import type { FeedForward } from './feed-forward.js';
import {
  type LatentAttention,
  type LatentHeads,
  latentAttention,
  latentCaches,
  latentScale,
  latentShapes,
  NOTHING,
  readLatentHeads,
} from './latent-attention.js';
import { sameRope } from './layer-ropes.js';
import { readQueryScale } from './ministral3.js';
import { readRope, requireRotation } from './rope.js';
import { type DeepseekMixture, deepseekFeedForwards } from './shared-experts.js';

const V3_HEADS = { queryRank: 1536, latentDim: 512, plainDim: 128, ropeDim: 64, valueDim: 128 } as const;
const V3_MIXTURE: DeepseekMixture = {
  I: 2048,
  denseI: 18432,
  experts: 256,
  chosen: 8,
  shared: 1,
  dense: 3,
  normalized: true,
  groups: [8, 4],
  scale: 2.5,
};
const GLM_HEADS = { queryRank: 2048, latentDim: 512, plainDim: 192, ropeDim: 64, valueDim: 256 } as const;

export const deepseekV2: Architecture = {
  modelTypes: ['deepseek_v2'],
  isShareable: true,
  build: (config) => {
    config.refuseUnless(false, 'norm_topk_prob', 'mlp_bias');
    return buildLatent(config, {
      architecture: 'deepseek_v2',
      heads: V3_HEADS,
      defaultContext: 2048,
      interleaved: true,
      mixture: {
        I: 1407,
        denseI: 11008,
        experts: 64,
        chosen: 6,
        shared: 2,
        dense: 0,
        normalized: false,
        ruled: { rule: greedyRule, hasBias: false },
      },
    });
  },
};

/** Kimi K2 (Moonshot AI 2025) is the same with other sizes. */
export const deepseekV3: Architecture = {
  modelTypes: ['deepseek_v3', 'kimi_k2'],
  isShareable: true,
  build: (config) =>
    buildLatent(config, {
      architecture: 'deepseek_v3',
      heads: V3_HEADS,
      defaultContext: 4096,
      mixture: V3_MIXTURE,
    }),
};

export const deepseekV32: Architecture = {
  modelTypes: ['deepseek_v32'],
  isShareable: true,
  build: (config) => {
    config.refuseUnless(false, 'mlp_bias');
    return buildLatent(config, {
      architecture: 'deepseek_v32',
      heads: V3_HEADS,
      defaultContext: 163840,
      interleaved: true,
      indexedTokens: config.count(['index_topk'], 2048),
      mixture: V3_MIXTURE,
    });
  },
};

/** What chooses among more tokens than an index lets a token see. */
const INDEX = /\.self_attn\.indexer\./;

/** GLM-5 (Zeng et al. 2026). */
export const glmMoeDsa: Architecture = {
  modelTypes: ['glm_moe_dsa'],
  isShareable: true,
  build: (config) => {
    config.refuseUnless(false, 'mlp_bias');
    return buildLatent(config, {
      architecture: 'glm_moe_dsa',
      heads: GLM_HEADS,
      defaultContext: 202752,
      defaultEps: 1e-5,
      interleaved: true,
      indexedTokens: config.count(['index_topk'], 2048),
      mixture: { ...V3_MIXTURE, denseI: 12288, groups: [1, 1] },
    });
  },
};

/** GLM-4.7-Flash. */
export const glm4MoeLite: Architecture = {
  modelTypes: ['glm4_moe_lite'],
  isShareable: true,
  build: (config) =>
    buildLatent(config, {
      architecture: 'glm4_moe_lite',
      heads: { ...GLM_HEADS, queryRank: 768 },
      defaultContext: 202752,
      defaultEps: 1e-5,
      mixture: {
        ...V3_MIXTURE,
        I: 1536,
        denseI: 10240,
        experts: 64,
        chosen: 4,
        dense: 1,
        groups: [1, 1],
        scale: 1.8,
      },
    }),
};

/** Mistral Small 4 (Mistral AI 2026). */
export const mistral4: Architecture = {
  modelTypes: ['mistral4'],
  isShareable: true,
  build: (config) => {
    requireRotation(config);
    return buildLatent(config, {
      architecture: 'mistral4',
      heads: { queryRank: 1024, latentDim: 256, plainDim: 64, ropeDim: 64, valueDim: 128 },
      defaultContext: 1048576,
      rotatesPart: true,
      queryScale: readQueryScale(config),
      mixture: {
        ...V3_MIXTURE,
        denseI: 12288,
        experts: 128,
        chosen: 4,
        dense: 0,
        ruled: { rule: softmaxGroupsRule, hasBias: false },
      },
    });
  },
};

interface LatentTraits {
  readonly architecture: string;
  readonly heads: Omit<LatentHeads, 'nHeads'>;
  readonly defaultContext: number;
  readonly defaultEps?: number;
  /** Neighbours rotate together, whatever the configuration says. */
  readonly interleaved?: true;
  /** The part of a head that rotates is said of the whole head, and not of that part. */
  readonly rotatesPart?: boolean;
  readonly queryScale?: LatentAttention['queryScale'];
  /** Longer contexts see only so many tokens, which an index chooses: up to that many they see all. */
  readonly indexedTokens?: number;
  readonly mixture: DeepseekMixture;
}

function buildLatent(config: ConfigReader, traits: LatentTraits): ArchitectureModel {
  const H = config.count(['hidden_size']);
  const V = config.count(['vocab_size']);
  const blockCount = config.count(['num_hidden_layers']);
  const latent = readLatentHeads(config, traits.heads);
  const { plainDim, ropeDim } = latent;
  // The reference turns by this one where they differ, and fails where it cannot.
  const heads = [ropeDim, plainDim + ropeDim];
  const given = config.optionalCount(['head_dim']);
  if (given !== undefined && !heads.includes(given))
    throw config.unsupported('head_dim', given, heads.join(', '));
  const part = { headDim: plainDim + ropeDim, partNames: [], defaultPart: ropeDim / (plainDim + ropeDim) };
  const rope = readRope(config, {
    defaultContext: traits.defaultContext,
    ...(traits.rotatesPart ? part : { headDim: ropeDim }),
  });
  const ropes = sameRope(rope);
  const { limits, constants } = ropes;
  const eps = config.number(['rms_norm_eps'], traits.defaultEps ?? 1e-6);
  const bias = config.flag(['attention_bias'], false);
  const feedForward = deepseekFeedForwards(config, traits.mixture);
  const attention: LatentAttention = {
    ...latent,
    scale: latentScale(config, latent),
    rope: { constant: 'inverse_frequencies', use: rope.use },
    interleaved: traits.interleaved ?? config.flag(['rope_interleave'], true),
    queryScale: traits.queryScale,
  };
  const longest = Math.min(limits.maxContextTokens, traits.indexedTokens ?? limits.maxContextTokens);
  return {
    architecture: traits.architecture,
    hiddenSize: H,
    vocabSize: V,
    ...limits,
    maxContextTokens: longest,
    caches: latentCaches(blockCount, latent),
    blockCount,
    prefixes: ['model.'],
    ...(traits.indexedTokens === undefined ? {} : { unneeded: INDEX }),
    tables: [{ key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', { 'norm.weight': [H] }),
    block: (index) => [
      ...tensorsUnder(`layers.${index}.`, {
        'input_layernorm.weight': [H],
        ...latentShapes(H, latent, bias),
        'post_attention_layernorm.weight': [H],
      }),
      ...feedForward(index).tensors(`layers.${index}.`),
    ],
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], false),
    },
    logits: PLAIN_LOGITS,
    constants: { ...constants, [NOTHING]: new Float32Array(ropeDim) },
    forward: forward(attention, feedForward, eps),
  };
}

/** T tokens, H hidden size. */
function forward(
  attention: LatentAttention,
  feedForward: (blockIndex: number) => FeedForward,
  eps: number,
): LayerForward {
  return {
    embed: embedTokens,

    block(k, w, x, blockIndex) {
      const normed = k.rmsNorm(x, w('input_layernorm.weight'), eps); // [T, H]
      const attended = latentAttention(k, w, normed, attention); // [T, nHeads · valueDim]
      project(k, w, attended, 'self_attn.o_proj', x);

      const after = (out?: Tensor) => k.rmsNorm(x, w('post_attention_layernorm.weight'), eps, 0, out); // [T, H]
      feedForward(blockIndex).add(k, w, after, x);
    },

    headInput(k, w, x, out) {
      k.rmsNorm(x, w('norm.weight'), eps, 0, out); // [R, H]
    },
  };
}

/** DeepSeek-V2: a softmax over all, whose best are taken, of all experts or of the groups that have the best ones. */
function greedyRule(config: ConfigReader, expertCount: number): RouteRule {
  config.refuseUnless('softmax', 'scoring_func');
  const method = config.text(['topk_method'], 'greedy');
  const rule = { ...PLAIN_ROUTE, scale: config.number(['routed_scaling_factor'], 1) };
  if (method === 'greedy') return rule;
  if (method !== 'group_limited_greedy')
    throw config.unsupported('topk_method', method, 'greedy, group_limited_greedy');
  return { ...rule, ...readGroups(config, expertCount, 1) };
}

/** Mistral Small 4: the same, where groups count by their two best, and the chosen ones' parts sum to one. */
function softmaxGroupsRule(config: ConfigReader, expertCount: number): RouteRule {
  const normalize = config.flag(['norm_topk_prob'], true);
  return {
    ...PLAIN_ROUTE,
    ...readGroups(config, expertCount, 2),
    normalize,
    addedToSum: normalize ? 1e-20 : 0,
    scale: config.number(['routed_scaling_factor'], 1),
  };
}

function readGroups(config: ConfigReader, expertCount: number, groupBest: number) {
  const groups = config.count(['n_group'], 1);
  const groupsKept = config.count(['topk_group'], 1);
  const size = config.divided(expertCount, groups, 'experts over n_group');
  if (groupsKept > groups)
    throw config.unsupported('topk_group', groupsKept, `1 to ${groups}, the number of groups`);
  if (groups > 1 && size < groupBest)
    throw config.unsupported('n_group', groups, `groups of at least ${groupBest} experts`);
  return { groups, groupsKept, groupBest: groups > 1 ? groupBest : 1 };
}
