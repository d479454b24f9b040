// What decoders since Llama share: grouped-query attention with rotary positions, and projections with or without bias.

import { type ForwardOps, heads, type Tensor, type Weights } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { RopeUse } from './rope.js';

/** Ainslie et al. 2023: groups of query heads share a key and a value head. */
export interface GroupedHeads {
  readonly nHeads: number;
  readonly nKv: number;
  /** Dimensions of a head. */
  readonly D: number;
}

/** Head counts and the dimensions of a head. @param H hidden size. Throws BAD_CONFIG, or UNSUPPORTED for odd dimensions. */
export function readGroupedHeads(config: ConfigReader, H: number, defaultHeadDim?: number): GroupedHeads {
  const nHeads = config.count(['num_attention_heads']);
  const nKv = config.count(['num_key_value_heads'], nHeads);
  config.divided(nHeads, nKv, 'num_attention_heads over num_key_value_heads');
  const given = config.optionalCount(['head_dim']) ?? defaultHeadDim;
  const D = given ?? config.divided(H, nHeads, 'hidden_size over num_attention_heads');
  if (D % 2 !== 0) throw config.unsupported('head_dim', D, 'even numbers');
  return { nHeads, nKv, D };
}

/** Shapes of separate query, key, value and output projections. */
export function attentionShapes(
  H: number,
  { nHeads, nKv, D }: GroupedHeads,
  bias: { readonly qkv: boolean; readonly out: boolean },
) {
  return {
    'self_attn.q_proj.weight': [nHeads * D, H],
    'self_attn.q_proj.bias': bias.qkv ? [nHeads * D] : undefined,
    'self_attn.k_proj.weight': [nKv * D, H],
    'self_attn.k_proj.bias': bias.qkv ? [nKv * D] : undefined,
    'self_attn.v_proj.weight': [nKv * D, H],
    'self_attn.v_proj.bias': bias.qkv ? [nKv * D] : undefined,
    'self_attn.o_proj.weight': [H, nHeads * D],
    'self_attn.o_proj.bias': bias.out ? [H] : undefined,
  };
}

/** x [T, K] through `NAME.weight` and, where there is one, `NAME.bias`; added to `addTo` if given. */
export function project(k: ForwardOps, w: Weights, x: Tensor, name: string, addTo?: Tensor): Tensor {
  const bias = w.optional(`${name}.bias`);
  return k.linear(x, w.matrix(`${name}.weight`), addTo ? { bias, addTo } : { bias });
}

export interface RotaryAttention extends GroupedHeads {
  /** Factor on the product of a query and a key. */
  readonly scale: number;
  readonly rope: RopeUse;
  /** Tokens that a layer sees; 0 for all. */
  readonly windowTokens: (blockIndex: number) => number;
  /** Queries and keys are normed head by head with this epsilon (Dehghani et al. 2023). */
  readonly headNormEps?: number;
  readonly softCap?: number;
  /** Each head has a score in `self_attn.sinks` that takes its share of every softmax (Xiao et al. 2024). */
  readonly hasSinks?: boolean;
  /** Name of the constant that holds a layer's rotary frequencies. */
  readonly frequencies?: (blockIndex: number) => string;
}

/** Attention of normed [T, H] with separate projections, before the output projection: [T, nHeads · D]. */
export function separateAttention(
  k: ForwardOps,
  w: Weights,
  normed: Tensor,
  attention: RotaryAttention,
  blockIndex: number,
): Tensor {
  const { nHeads, nKv, D, headNormEps } = attention;
  const q = heads(project(k, w, normed, 'self_attn.q_proj'), nHeads, D); // [T, nHeads, D]
  const key = heads(project(k, w, normed, 'self_attn.k_proj'), nKv, D); // [T, nKv, D]
  const value = heads(project(k, w, normed, 'self_attn.v_proj'), nKv, D); // [T, nKv, D]
  if (headNormEps !== undefined) {
    k.rmsNorm(q, w('self_attn.q_norm.weight'), headNormEps, 0, q);
    k.rmsNorm(key, w('self_attn.k_norm.weight'), headNormEps, 0, key);
  }
  const sinks = attention.hasSinks ? w('self_attn.sinks') : undefined;
  return rotateAndAttend(k, [q, key, value], { ...attention, sinks }, blockIndex);
}

/** Rotates q [T, nHeads, D] and key [T, nKv, D], then attends: [T, nHeads · D]. */
export function rotateAndAttend(
  k: ForwardOps,
  [q, key, value]: readonly [Tensor, Tensor, Tensor],
  attention: RotaryAttention & { readonly sinks?: Tensor | undefined },
  blockIndex: number,
): Tensor {
  const { scale, rope, windowTokens, softCap = 0, frequencies, sinks } = attention;
  const inverse = k.constant(frequencies?.(blockIndex) ?? 'inverse_frequencies'); // [≤ D / 2]
  for (const x of [q, key]) {
    if (rope.byLength) k.rotaryByLength(x, inverse, rope.byLength, { scale: rope.scale });
    else k.rotary(x, inverse, { scale: rope.scale });
  }
  return k.attention(q, key, value, { scale, windowTokens: windowTokens(blockIndex), softCap, sinks });
}
