// Llama (Touvron et al. 2023): RMS norm, rotary positions, grouped-query attention, gated feed-forward; and its relatives.

import {
  alikeCaches,
  type ForwardOps,
  type LayerForward,
  type PositionScale,
  present,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, tensorsUnder } from './architecture.js';
import {
  attentionShapes,
  project,
  QUERY_KEY_NORMS,
  type QueryKeyNorm,
  queryKeyNormTensors,
  type RotaryAttention,
  readGroupedHeads,
  separateAttention,
} from './decoder-parts.js';
import { denseFeedForward, type FeedForward } from './feed-forward.js';
import { type LayerRopes, sameRope } from './layer-ropes.js';
import { readLayerWindows } from './layer-windows.js';
import type { Mixer } from './mixer.js';
import { type RopeOptions, readRope } from './rope.js';

export const llama: Architecture = {
  modelTypes: ['llama'],
  isShareable: true,
  build: (config) => {
    const attentionBias = config.flag(['attention_bias'], false);
    return buildLlama(config, {
      architecture: 'llama',
      qkvBias: attentionBias,
      outBias: attentionBias,
      mlpBias: config.flag(['mlp_bias'], false),
      defaultContext: 2048,
    });
  },
};

/** Names of a block's norms: of what each half reads, and of what it gives before that is added. */
export interface BlockNorms {
  readonly attentionIn?: string;
  readonly attentionOut?: string;
  readonly feedIn?: string;
  readonly feedOut?: string;
}

export const LLAMA_NORMS: BlockNorms = { attentionIn: 'input_layernorm', feedIn: 'post_attention_layernorm' };
/** Since OLMo 2 (Walsh et al. 2024): a norm behind each half, none before it. */
export const NORMS_BEHIND: BlockNorms = {
  attentionOut: 'post_attention_layernorm',
  feedOut: 'post_feedforward_layernorm',
};
/** Since Gemma 2. */
export const NORMS_AROUND: BlockNorms = {
  ...NORMS_BEHIND,
  attentionIn: 'input_layernorm',
  feedIn: 'pre_feedforward_layernorm',
};

/** What the families that share Llama's block differ in. */
export interface LlamaTraits {
  readonly architecture: string;
  readonly qkvBias: boolean;
  readonly outBias: boolean;
  readonly mlpBias: boolean;
  readonly defaultContext: number;
  /** Where the configuration names none; otherwise hidden_size over num_attention_heads. */
  readonly defaultHeadDim?: number;
  readonly norms?: BlockNorms;
  /** Weights of norms are stored as their deviation from one. */
  readonly normsFromOne?: boolean;
  /** Norms subtract means, and have biases (Ba et al. 2016). */
  readonly layerNorms?: boolean;
  /** Queries and keys are normed head by head. */
  readonly headNorms?: boolean;
  /** Queries and keys are normed in another way. */
  readonly queryKeyNorm?: Omit<QueryKeyNorm, 'eps'>;
  /** See RotaryAttention. */
  readonly gatedAttention?: boolean;
  /** What stands in place of attention in some layers, which then cache what it says. */
  readonly mixer?: (blockIndex: number) => Mixer | undefined;
  /** Heads have scores of their own in every softmax. */
  readonly sinks?: boolean;
  /** Tokens that a layer sees; 0 or absent for all. */
  readonly windowTokens?: (blockIndex: number) => number;
  /** Otherwise a dense one in every layer. */
  readonly feedForward?: (blockIndex: number) => FeedForward;
  /** Where the configuration gives none. */
  readonly defaultEps?: number;
  readonly defaultRopeBase?: number;
  readonly tiedByDefault?: boolean;
  /** What is read of rotations beside the usual. */
  readonly rope?: Partial<RopeOptions>;
  /** Otherwise one rotation in all layers. */
  readonly ropes?: (headDim: number) => LayerRopes;
  /** Layers that rotate; otherwise all. */
  readonly rotates?: (blockIndex: number) => boolean;
  readonly interleaved?: boolean;
  /** What a layer's queries grow by with their positions. */
  readonly queryScaleOf?: (blockIndex: number) => PositionScale | undefined;
  /** Tokens of the runs that a layer sees one of; 0 or absent for all. */
  readonly chunkTokens?: (blockIndex: number) => number;
  /** Factor on products of queries and keys; otherwise 1 over the root of a head's dimensions. */
  readonly attentionScale?: number;
  readonly attentionSoftCap?: number;
  readonly embeddingScale?: number;
  /** Factor on what each half of a block adds. */
  readonly residualScale?: number;
  readonly logits?: ArchitectureModel['logits'];
  readonly headBias?: boolean;
}

/** Llama's block with what a relative has of its own. Throws BAD_CONFIG or UNSUPPORTED. */
export function buildLlama(config: ConfigReader, traits: LlamaTraits): ArchitectureModel {
  config.refuseUnless(null, 'clip_qkv');
  if (traits.attentionSoftCap === undefined) config.refuseUnless(null, 'attn_logit_softcapping');
  if (traits.logits === undefined) config.refuseUnless(null, 'final_logit_softcapping');
  const H = config.count(['hidden_size']);
  const V = config.count(['vocab_size']);
  const blockCount = config.count(['num_hidden_layers']);
  const grouped = readGroupedHeads(config, H, traits.defaultHeadDim);
  const { nKv, D } = grouped;
  if (config.share.devices > 1 && queryKeyNormSpans(traits)) {
    throw config.unsupported(
      '--parallel',
      'tensor',
      'streams, since queries and keys are normed over all heads',
    );
  }
  const { sinks = false, norms = LLAMA_NORMS, residualScale = 1, embeddingScale = 1 } = traits;
  const ropes = traits.ropes?.(D) ?? readSameRope(config, traits, D);
  const eps = config.number(['rms_norm_eps'], traits.defaultEps ?? 1e-6);
  const queryKeyNorm = queryKeyNormOf(traits, eps);
  const feedForward = traits.feedForward ?? everywhere(readDense(config, H, traits.mlpBias));
  const attentionTensors = (path: string) => [
    ...tensorsUnder(path, {
      ...attentionShapes(H, grouped, { qkv: traits.qkvBias, out: traits.outBias }, traits.gatedAttention),
      'self_attn.sinks': sinks ? [grouped.nHeads] : undefined,
    }),
    ...(queryKeyNorm ? queryKeyNormTensors(path, queryKeyNorm, grouped) : []),
  ];
  const windowTokens = traits.windowTokens ?? readLayerWindows(config, blockCount, () => false);
  return {
    architecture: traits.architecture,
    hiddenSize: H,
    vocabSize: V,
    ...ropes.limits,
    caches: alikeCaches(blockCount, nKv, D, { windowTokens, chunkTokens: traits.chunkTokens }).map(
      (pages, index) => traits.mixer?.(index)?.cache ?? pages,
    ),
    blockCount,
    prefixes: ['model.'],
    tables: [{ key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 }],
    fixed: tensorsUnder('', normShapes(['norm'], H, traits.layerNorms)),
    block: (index) => [
      ...tensorsUnder(`layers.${index}.`, {
        ...normShapes(Object.values(norms), H, traits.layerNorms),
      }),
      ...(traits.mixer?.(index)?.tensors(`layers.${index}.`) ?? attentionTensors(`layers.${index}.`)),
      ...feedForward(index).tensors(`layers.${index}.`),
    ],
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      ...(traits.headBias ? { bias: { key: 'bias', name: 'lm_head.bias', shape: [V] } } : {}),
      tied: config.flag(['tie_word_embeddings'], traits.tiedByDefault ?? false),
    },
    logits: traits.logits ?? PLAIN_LOGITS,
    constants: ropes.constants,
    forward: forward({
      attention: {
        ...grouped,
        scale: traits.attentionScale ?? 1 / Math.sqrt(D),
        ropeOf: ropes.of,
        interleaved: traits.interleaved ?? false,
        windowTokens,
        hasSinks: sinks,
        isGated: traits.gatedAttention,
        queryScaleOf: traits.queryScaleOf,
        chunkTokens: traits.chunkTokens,
        softCap: traits.attentionSoftCap ?? 0,
        queryKeyNorm,
      },
      mixer: traits.mixer ?? (() => undefined),
      feedForward,
      norms,
      residualEps: eps / residualScale ** 2,
      resultEps: eps,
      weightOffset: traits.normsFromOne ? 1 : 0,
      layerNorms: traits.layerNorms ?? false,
      embeddingScale: embeddingScale / residualScale,
    }),
  };
}

function readSameRope(config: ConfigReader, traits: LlamaTraits, D: number): LayerRopes {
  const { defaultContext, defaultRopeBase = 10000, rotates } = traits;
  const options = { headDim: D, defaultContext, defaultBase: defaultRopeBase, ...traits.rope };
  return sameRope(readRope(config, options), rotates);
}

function queryKeyNormOf(traits: LlamaTraits, eps: number): QueryKeyNorm | undefined {
  const norm =
    traits.queryKeyNorm ?? (traits.headNorms ? { over: 'head', names: QUERY_KEY_NORMS } : undefined);
  if (!norm) return undefined;
  return { ...norm, eps, weightOffset: traits.normsFromOne ? 1 : 0 };
}

function queryKeyNormSpans({ queryKeyNorm }: LlamaTraits): boolean {
  return queryKeyNorm?.over === 'projection' || queryKeyNorm?.weightPerHead === true;
}

function normShapes(names: readonly string[], H: number, biased = false): Record<string, number[]> {
  const parts = biased ? ['weight', 'bias'] : ['weight'];
  return Object.fromEntries(names.flatMap((name) => parts.map((part) => [`${name}.${part}`, [H]])));
}

function readDense(config: ConfigReader, H: number, bias: boolean): FeedForward {
  const activation = readActivation(config, ['hidden_act'], 'silu');
  const I = config.shared(config.count(['intermediate_size']), 'intermediate_size');
  return denseFeedForward(H, I, activation, bias);
}

export function everywhere(feedForward: FeedForward): (blockIndex: number) => FeedForward {
  return () => feedForward;
}

interface Dimensions {
  readonly attention: RotaryAttention;
  readonly mixer: (blockIndex: number) => Mixer | undefined;
  readonly feedForward: (blockIndex: number) => FeedForward;
  readonly norms: BlockNorms;
  /**
   * That of the residual, which is kept divided by the factor on what is added to it. So the factor costs nothing: norms
   * do not notice but for their epsilon.
   */
  readonly residualEps: number;
  readonly resultEps: number;
  readonly weightOffset: number;
  readonly layerNorms: boolean;
  readonly embeddingScale: number;
}

interface Norm {
  readonly name: string;
  readonly eps?: number;
  readonly out?: Tensor | undefined;
}

/** T tokens, H hidden size, D head dimension. */
function forward(dimensions: Dimensions): LayerForward {
  const { attention, mixer, feedForward, norms, residualEps, resultEps, weightOffset, embeddingScale } =
    dimensions;
  const { layerNorms } = dimensions;
  /** x [T, H], with the weights of that name. */
  const normed = (k: ForwardOps, w: Weights, x: Tensor, { name, eps = residualEps, out }: Norm) =>
    layerNorms
      ? k.layerNorm(x, w(`${name}.weight`), w(`${name}.bias`), eps, out)
      : k.rmsNorm(x, w(`${name}.weight`), eps, weightOffset, out);
  return {
    embed(k, _w, rows, x) {
      const { table, rows: indices } = rows('tokens');
      k.gather(x, table, indices, { scale: embeddingScale }); // [T, H]
    },

    block(k, w, x, blockIndex) {
      const norm = (name: string, out?: Tensor) => normed(k, w, x, { name, out }); // [T, H]
      const addNormed = (result: Tensor, name: string) =>
        k.add(x, normed(k, w, result, { name, eps: resultEps }), x);
      const input = norms.attentionIn ? norm(norms.attentionIn) : x;
      const mixed = mixer(blockIndex);
      if (mixed) mixed.add(k, w, () => input, x);
      else {
        const attended = separateAttention(k, w, input, attention, blockIndex); // [T, nHeads · D]
        if (norms.attentionOut) addNormed(project(k, w, attended, 'self_attn.o_proj'), norms.attentionOut);
        else project(k, w, attended, 'self_attn.o_proj', x);
      }

      const { feedIn, feedOut } = norms;
      const after = (out?: Tensor) => (feedIn ? norm(feedIn, out) : x);
      const feed = feedForward(blockIndex);
      if (feedOut) {
        const result = present(feed.result?.(k, w, after()), 'a feed-forward whose result is normed');
        addNormed(result, feedOut);
      } else feed.add(k, w, after, x);
    },

    headInput(k, w, x, out) {
      normed(k, w, x, { name: 'norm', out }); // [R, H]
    },
  };
}
