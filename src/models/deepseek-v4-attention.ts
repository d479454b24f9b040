// DeepSeek-V4's attention: one key for all heads, which is its own value, for the latest tokens; those before them as entries that
// each stand for a run of tokens.
//
// What is seen is turned back by the token's own position, so that it depends on distances alone. Entries are chosen by an index
// only where there are more of them than `index_topk`: up to there all are seen, and a longer context is refused.

import {
  type CacheSpec,
  dimension,
  type ForwardOps,
  heads,
  innermost,
  reshaped,
  type StateField,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { TensorDef } from './architecture.js';
import { type CompressedLayer, readCompressedLayers } from './deepseek-v4-layers.js';
import { spelt, speltVector } from './deepseek-v4-names.js';
import { type CompressedRopes, readCompressedRopes } from './deepseek-v4-ropes.js';

export interface CompressedAttention {
  readonly constants: Readonly<Record<string, Float32Array>>;
  readonly limits: { readonly maxContextTokens: number };
  cache(blockIndex: number): CacheSpec;
  tensors(blockIndex: number, path: string): readonly TensorDef[];
  /** [T, H] f32, of normed [T, H]. */
  result(k: ForwardOps, w: Weights, normed: Tensor, blockIndex: number): Tensor;
}

interface Dimensions {
  readonly H: number;
  readonly nHeads: number;
  /** Dimensions of a head. */
  readonly D: number;
  /** Inner sizes of the projections of queries and, in each of G groups of heads, of the output. */
  readonly queryRank: number;
  readonly outRank: number;
  readonly G: number;
  readonly windowTokens: number;
  readonly eps: number;
}

/** Kernels keep a head's in registers. */
const MOST_VALUES = 512;

export function readCompressedAttention(
  config: ConfigReader,
  { H, blockCount, normEps }: { readonly H: number; readonly blockCount: number; readonly normEps: number },
): CompressedAttention {
  const d: Dimensions = {
    H,
    nHeads: config.count(['num_attention_heads'], 64),
    D: config.count(['head_dim'], 512),
    queryRank: config.count(['q_lora_rank'], 1024),
    outRank: config.count(['o_lora_rank'], 1024),
    G: config.count(['o_groups'], 8),
    windowTokens: config.count(['sliding_window'], 128),
    eps: normEps,
  };
  if (d.D > MOST_VALUES) throw config.unsupported('head_dim', d.D, `1 to ${MOST_VALUES}`);
  config.refuseUnless(1, 'num_key_value_heads');
  config.divided(d.nHeads * d.D, d.G, 'num_attention_heads times head_dim over o_groups');
  const layers = readCompressedLayers(config, blockCount);
  const ropes = readCompressedRopes(config, d.D);
  const layerOf = (index: number): CompressedLayer => layers[index] ?? {};
  return {
    constants: ropes.constants,
    limits: { maxContextTokens: Math.min(ropes.contextTokens, exactTokens(config, layers)) },
    cache: (index) => ({ kind: 'recurrent', fields: stateFields(d, layerOf(index)) }),
    tensors: (index, path) => attentionTensors(d, layerOf(index), path),
    result: (k, w, normed, index) => attend(k, w, normed, { d, layer: layerOf(index), ropes }),
  };
}

/** The longest context in which no layer has more entries than an index would choose. */
function exactTokens(config: ConfigReader, layers: readonly CompressedLayer[]): number {
  const chosen = config.count(['index_topk'], 512);
  const indexed = layers.flatMap(({ runTokens, isIndexed }) => (runTokens && isIndexed ? [runTokens] : []));
  return Math.min(...indexed.map((runTokens) => (chosen + 1) * runTokens - 1), Number.POSITIVE_INFINITY);
}

function stateFields(
  { windowTokens, D }: Dimensions,
  { runTokens, isIndexed }: CompressedLayer,
): StateField[] {
  const window = { name: 'window', shape: [windowTokens, D], dtype: 'f32' } as const;
  if (runTokens === undefined) return [window];
  return [
    window,
    { name: 'entries', shape: [D], dtype: 'f32', runTokens },
    { name: 'open', shape: [isIndexed ? 2 : 1, 3, D], dtype: 'f32' },
  ];
}

function attentionTensors(
  d: Dimensions,
  { runTokens, isIndexed }: CompressedLayer,
  path: string,
): TensorDef[] {
  const { H, nHeads, D, queryRank, outRank, G } = d;
  const width = (isIndexed ? 2 : 1) * D;
  const compressor =
    runTokens === undefined
      ? []
      : [
          // What weighs tokens in a softmax, and is kept as it is wherever the model is stored in fewer bits.
          { ...spelt(path, 'attn.compressor.wkv.weight', [width, H]), isRouter: true },
          { ...spelt(path, 'attn.compressor.wgate.weight', [width, H]), isRouter: true },
          speltVector(path, 'attn.compressor.ape', [runTokens, width]),
          speltVector(path, 'attn.compressor.norm.weight', [D]),
        ];
  return [
    spelt(path, 'attn.wq_a.weight', [queryRank, H]),
    speltVector(path, 'attn.q_norm.weight', [queryRank]),
    spelt(path, 'attn.wq_b.weight', [nHeads * D, queryRank]),
    spelt(path, 'attn.wkv.weight', [D, H]),
    speltVector(path, 'attn.kv_norm.weight', [D]),
    speltVector(path, 'attn.attn_sink', [nHeads]),
    ...compressor,
    spelt(path, 'attn.wo_a.weight', [G * outRank, (nHeads * D) / G]),
    spelt(path, 'attn.wo_b.weight', [H, G * outRank]),
  ];
}

interface Layer {
  readonly d: Dimensions;
  readonly layer: CompressedLayer;
  readonly ropes: CompressedRopes;
}

function attend(k: ForwardOps, w: Weights, normed: Tensor, all: Layer): Tensor {
  const { d, layer, ropes } = all;
  const { nHeads, D, outRank, G, eps } = d;
  const T = dimension(normed, 0);
  const rope = ropes.of(layer);
  const turn = (x: Tensor, constant: string) =>
    k.rotary(innermost(x, D - rope.turned, rope.turned), k.constant(constant), {
      interleaved: true,
      scale: rope.scale,
    });

  const inner = k.rmsNorm(k.linear(normed, w.matrix('attn.wq_a.weight')), w('attn.q_norm.weight'), eps); // [T, queryRank]
  const q = heads(k.linear(inner, w.matrix('attn.wq_b.weight')), nHeads, D); // [T, nHeads, D]
  k.rmsNorm(q, null, eps, 0, q);
  turn(q, rope.there);
  // Cached and multiplied as it is here.
  const key = k.linear(normed, w.matrix('attn.wkv.weight'), {}, k.floats([T, D]));
  k.rmsNorm(key, w('attn.kv_norm.weight'), eps, 0, key);
  turn(heads(key, 1, D), rope.there);
  compress(k, w, normed, all);
  const seen = k.windowAttention(q, key, {
    window: k.state('window'),
    entries: layer.runTokens === undefined ? null : k.state('entries'),
    ratio: layer.runTokens ?? 1,
    sinks: w('attn.attn_sink'),
    scale: D ** -0.5,
  }); // [T, nHeads, D]
  turn(seen, rope.back);
  const groups = reshaped(seen, [T, G, (nHeads * D) / G]);
  const part = { firstRow: 0, rows: outRank };
  const narrow = k.headLinear(groups, w.matrix('attn.wo_a.weight'), part); // [T, G, outRank]
  const flat = reshaped(narrow, [T, G * outRank]);
  return k.linear(flat, w.matrix('attn.wo_b.weight'), {}, k.floats(normed.shape));
}

/** Entries of the runs that end here are there before tokens look for them. */
function compress(k: ForwardOps, w: Weights, normed: Tensor, { d: { D, eps }, layer, ropes }: Layer): void {
  if (layer.runTokens === undefined) return;
  const T = dimension(normed, 0);
  const series = layer.isIndexed ? 2 : 1;
  // Not rounded: they add up over many tokens.
  const project = (name: string) =>
    reshaped(k.linear(normed, w.matrix(name), {}, k.floats([T, series * D])), [T, series, D]);
  const rope = ropes.of(layer);
  k.compress(project('attn.compressor.wkv.weight'), project('attn.compressor.wgate.weight'), {
    entries: k.state('entries'),
    state: k.state('open'),
    bias: w('attn.compressor.ape'),
    norm: w('attn.compressor.norm.weight'),
    inverseFrequencies: k.constant(rope.there),
    eps,
    rotaryScale: rope.scale,
  });
}
