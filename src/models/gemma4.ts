// Gemma 4 (Google 2026): two kinds of layers with heads of their own sizes, values normed without a weight, and in the small
// models keys and values of earlier layers and a table of inputs for every layer.
//
// A token's inputs for all layers travel behind its hidden state, in the same row.

import {
  columns,
  type ForwardOps,
  heads,
  type LayerForward,
  present,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { readActivation } from './activations.js';
import { type Architecture, type ArchitectureModel, type TensorDef, tensorsUnder } from './architecture.js';
import { project } from './decoder-parts.js';
import { denseFeedForward, type FeedForward } from './feed-forward.js';
import { type Gemma4Layer, readGemma4Layers } from './gemma4-layers.js';
import { type Gemma4Mixture, readGemma4Mixture } from './gemma4-mixture.js';
import { type LayerRopes, ropesByType } from './layer-ropes.js';
import { readRope } from './rope.js';

export const gemma4: Architecture = { modelTypes: ['gemma4_text'], build };

function build(config: ConfigReader): ArchitectureModel {
  // Pictures apart, every token sees those before it alone.
  if (config.raw('use_bidirectional_attention') !== 'vision')
    config.refuseUnless(null, 'use_bidirectional_attention');
  config.refuseUnless(null, 'attn_logit_softcapping', 'clip_qkv');
  if (!config.object('rope_parameters'))
    throw config.unsupported('rope_parameters', null, 'parameters of each kind of layer');
  const H = config.count(['hidden_size']);
  const V = config.count(['vocab_size']);
  const nHeads = config.count(['num_attention_heads']);
  const layers = readGemma4Layers(config, nHeads);
  const P = config.number(['hidden_size_per_layer_input'], 256);
  const perLayer = P > 0 ? readPerLayer(config, V, { H, P, blockCount: layers.length }) : undefined;
  const ropes = ropesByType(
    config,
    layers.map(({ type }) => type),
    (layerType) => {
      const D = layers.find(({ type }) => type === layerType)?.D ?? 0;
      return readRope(config, { headDim: D, defaultContext: 131072, layerType, proportional: true });
    },
  );
  const activation = readActivation(config, ['hidden_activation'], 'gelu_pytorch_tanh');
  const bias = config.flag(['attention_bias'], false);
  const I = config.count(['intermediate_size']);
  const feedForward = ({ isWide }: Gemma4Layer) => denseFeedForward(H, isWide ? 2 * I : I, activation);
  const feeds = layers.map(feedForward);
  const mixture = config.flag(['enable_moe_block'], false)
    ? readGemma4Mixture(config, H, activation)
    : undefined;
  return {
    architecture: 'gemma4_text',
    hiddenSize: H + (perLayer ? layers.length * P : 0),
    vocabSize: V,
    ...ropes.limits,
    caches: layers.map(({ cache }) => cache),
    blockCount: layers.length,
    prefixes: ['model.'],
    tables: [
      { key: 'tokens', name: 'embed_tokens.weight', shape: [V, H], rowsFrom: 'token', rowOffset: 0 },
      ...(perLayer?.tables ?? []),
    ],
    fixed: [...tensorsUnder('', { 'norm.weight': [H] }), ...(perLayer?.fixed ?? [])],
    block: (index) => [
      ...blockTensors(layers[index], { H, nHeads, P, bias, path: `layers.${index}.` }),
      ...(feeds[index]?.tensors(`layers.${index}.`) ?? []),
      ...(mixture?.tensors(`layers.${index}.`) ?? []),
    ],
    head: {
      projection: { key: 'projection', name: 'lm_head.weight', shape: [V, H] },
      tied: config.flag(['tie_word_embeddings'], true),
    },
    logits: { scale: 1, softCap: config.number(['final_logit_softcapping'], 0) },
    constants: { ...ropes.constants, half_root: Float32Array.of(Math.SQRT1_2) },
    forward: forward({
      H,
      P,
      nHeads,
      layers,
      ropes,
      feeds,
      mixture,
      eps: config.number(['rms_norm_eps'], 1e-6),
      activation,
    }),
  };
}

/** The table of inputs for every layer, and what makes more of them of the embeddings. */
function readPerLayer(
  config: ConfigReader,
  V: number,
  { H, P, blockCount }: { readonly H: number; readonly P: number; readonly blockCount: number },
) {
  const rows = config.count(['vocab_size_per_layer_input'], 262144);
  if (rows < V)
    throw config.unsupported('vocab_size_per_layer_input', rows, `${V} and more, as vocab_size is`);
  const shape = [rows, blockCount * P] as const;
  const from = { rowsFrom: 'token', rowOffset: 0 } as const;
  return {
    tables: [{ key: 'per_layer', name: 'embed_tokens_per_layer.weight', shape, ...from }],
    fixed: tensorsUnder('', {
      'per_layer_model_projection.weight': [blockCount * P, H],
      'per_layer_projection_norm.weight': [P],
    }),
  };
}

interface BlockShape {
  readonly H: number;
  readonly nHeads: number;
  readonly P: number;
  readonly bias: boolean;
  readonly path: string;
}

function blockTensors(layer: Gemma4Layer | undefined, { H, nHeads, P, bias, path }: BlockShape): TensorDef[] {
  if (!layer) return [];
  const { D, nKv, owner, valuesAreKeys } = layer;
  const own = owner === undefined;
  const projection = (name: string, width: number) => ({
    [`self_attn.${name}.weight`]: [width, H],
    [`self_attn.${name}.bias`]: bias ? [width] : undefined,
  });
  return tensorsUnder(path, {
    'input_layernorm.weight': [H],
    ...projection('q_proj', nHeads * D),
    ...(own ? projection('k_proj', nKv * D) : {}),
    ...(own && !valuesAreKeys ? projection('v_proj', nKv * D) : {}),
    'self_attn.q_norm.weight': [D],
    'self_attn.k_norm.weight': own ? [D] : undefined,
    'self_attn.o_proj.weight': [H, nHeads * D],
    'self_attn.o_proj.bias': bias ? [H] : undefined,
    'post_attention_layernorm.weight': [H],
    'pre_feedforward_layernorm.weight': [H],
    'post_feedforward_layernorm.weight': [H],
    'per_layer_input_gate.weight': P > 0 ? [P, H] : undefined,
    'per_layer_projection.weight': P > 0 ? [H, P] : undefined,
    'post_per_layer_input_norm.weight': P > 0 ? [H] : undefined,
    layer_scalar: [1],
  });
}

interface Dimensions {
  readonly H: number;
  /** Size of a layer's own input; 0 for none. */
  readonly P: number;
  readonly nHeads: number;
  readonly layers: readonly Gemma4Layer[];
  readonly ropes: LayerRopes;
  readonly feeds: readonly FeedForward[];
  /** Beside the feed-forward of every layer, where there is one. */
  readonly mixture: Gemma4Mixture | undefined;
  readonly eps: number;
  readonly activation: ReturnType<typeof readActivation>;
}

/** T tokens, H hidden size, D head dimension, L layers, P size of a layer's own input. */
function forward(dimensions: Dimensions): LayerForward {
  const { H, P, nHeads, layers, ropes, feeds, mixture, eps, activation } = dimensions;
  const inputs = layers.length * P;

  function attend(k: ForwardOps, w: Weights, normed: Tensor, index: number): Tensor {
    const { D, nKv, owner, valuesAreKeys, windowTokens } = present(layers[index], 'a layer');
    const rope = present(ropes.of(index), 'its rotation');
    const turn = (x: Tensor) => k.rotary(x, k.constant(rope.constant), { scale: rope.use.scale });
    const q = heads(project(k, w, normed, 'self_attn.q_proj'), nHeads, D); // [T, nHeads, D]
    k.rmsNorm(q, w('self_attn.q_norm.weight'), eps, 0, q);
    turn(q);
    const score = { scale: 1, windowTokens };
    if (owner !== undefined) return k.attention(q, null, null, score); // [T, nHeads · D]
    const key = heads(project(k, w, normed, 'self_attn.k_proj'), nKv, D); // [T, nKv, D]
    const value = valuesAreKeys
      ? k.rmsNorm(key, null, eps)
      : heads(project(k, w, normed, 'self_attn.v_proj'), nKv, D); // [T, nKv, D]
    if (!valuesAreKeys) k.rmsNorm(value, null, eps, 0, value);
    k.rmsNorm(key, w('self_attn.k_norm.weight'), eps, 0, key);
    turn(key);
    return k.attention(q, key, value, score);
  }

  return {
    embed(k, w, rows, x) {
      const hidden = columns(x, 0, H);
      const { table, rows: indices } = rows('tokens');
      k.gather(hidden, table, indices, { scale: Math.sqrt(H) }); // [T, H]
      if (P === 0) return;
      const own = columns(x, H, inputs); // [T, L · P]
      const named = rows('per_layer');
      k.gather(own, named.table, named.rows, { scale: Math.sqrt(P) });
      const made = k.linear(hidden, w.matrix('per_layer_model_projection.weight')); // [T, L · P], times the root of H
      const each = heads(made, layers.length, P); // [T, L, P]
      k.rmsNorm(each, w('per_layer_projection_norm.weight'), eps * H, 0, each);
      k.addAndScale(own, made, k.constant('half_root'));
    },

    block(k, w, x, blockIndex) {
      const hidden = columns(x, 0, H);
      const norm = (from: Tensor, name: string) => k.rmsNorm(from, w(`${name}.weight`), eps); // [T, H]
      const attended = attend(k, w, norm(hidden, 'input_layernorm'), blockIndex); // [T, nHeads · D]
      const out = project(k, w, attended, 'self_attn.o_proj');
      k.add(hidden, norm(out, 'post_attention_layernorm'), hidden);

      const feed = present(feeds[blockIndex]?.result, 'a feed-forward');
      const fed = feed(k, w, norm(hidden, 'pre_feedforward_layernorm'));
      const both = mixture?.addTo(k, w, hidden, norm(fed, 'post_feedforward_layernorm_1')) ?? fed;
      const added = norm(both, 'post_feedforward_layernorm');
      const scalar = w('layer_scalar'); // [1]
      if (P === 0) return k.addAndScale(hidden, added, scalar);
      k.add(hidden, added, hidden);
      const gate = k.linear(hidden, w.matrix('per_layer_input_gate.weight')); // [T, P]
      const inner = k.gated(gate, columns(x, H + blockIndex * P, P), activation); // [T, P]
      const more = norm(project(k, w, inner, 'per_layer_projection'), 'post_per_layer_input_norm');
      k.addAndScale(hidden, more, scalar);
    },

    headInput(k, w, x, out) {
      k.rmsNorm(columns(x, 0, H), w('norm.weight'), eps, 0, out); // [R, H]
    },
  };
}
