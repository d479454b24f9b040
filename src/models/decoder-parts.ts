// What decoders share: embeddings, grouped-query attention with rotary positions, and projections with or without bias.

import {
  type ForwardOps,
  heads,
  type LayerForward,
  type PositionScale,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { TensorDef } from './architecture.js';
import type { LayerRope } from './layer-ropes.js';

/** Ainslie et al. 2023: groups of query heads share a key and a value head. */
export interface GroupedHeads {
  readonly nHeads: number;
  readonly nKv: number;
  /** Dimensions of a head. */
  readonly D: number;
}

/** Head counts of a device, and the dimensions of a head. @param H hidden size. Throws BAD_CONFIG, or UNSUPPORTED for odd dimensions. */
export function readGroupedHeads(config: ConfigReader, H: number, defaultHeadDim?: number): GroupedHeads {
  const nHeads = config.count(['num_attention_heads']);
  const nKv = config.count(['num_key_value_heads'], nHeads);
  config.divided(nHeads, nKv, 'num_attention_heads over num_key_value_heads');
  const given = config.optionalCount(['head_dim']) ?? defaultHeadDim;
  const D = given ?? config.divided(H, nHeads, 'hidden_size over num_attention_heads');
  if (D % 2 !== 0) throw config.unsupported('head_dim', D, 'even numbers');
  return {
    nHeads: config.shared(nHeads, 'num_attention_heads'),
    nKv: config.sharedKeyHeads(nKv, 'num_key_value_heads'),
    D,
  };
}

/** Shapes of separate query, key, value and output projections. */
export function attentionShapes(
  H: number,
  { nHeads, nKv, D }: GroupedHeads,
  bias: { readonly qkv: boolean; readonly out: boolean },
  isGated = false,
) {
  const queryRows = (isGated ? 2 : 1) * nHeads * D;
  return {
    'self_attn.q_proj.weight': [queryRows, H],
    'self_attn.q_proj.bias': bias.qkv ? [queryRows] : undefined,
    'self_attn.k_proj.weight': [nKv * D, H],
    'self_attn.k_proj.bias': bias.qkv ? [nKv * D] : undefined,
    'self_attn.v_proj.weight': [nKv * D, H],
    'self_attn.v_proj.bias': bias.qkv ? [nKv * D] : undefined,
    'self_attn.o_proj.weight': [H, nHeads * D],
    'self_attn.o_proj.bias': bias.out ? [H] : undefined,
  };
}

/** Rows of the table `tokens` as they are: [T, H]. */
export const embedTokens: LayerForward['embed'] = (k, _w, rows, x) => {
  const { table, rows: indices } = rows('tokens');
  k.gather(x, table, indices);
};

/** The sum of a token's row and that of its position, in the tables of these names: [T, H]. */
export const embedTokensAndPositions: LayerForward['embed'] = (k, w, rows, x) => {
  embedTokens(k, w, rows, x);
  const positions = rows('positions');
  k.gather(x, positions.table, positions.rows, { accumulate: true });
};

/** x [T, K] through `NAME.weight` and, where there is one, `NAME.bias`; added to `addTo` if given. */
export function project(k: ForwardOps, w: Weights, x: Tensor, name: string, addTo?: Tensor): Tensor {
  const bias = w.optional(`${name}.bias`);
  return k.linear(x, w.matrix(`${name}.weight`), addTo ? { bias, addTo } : { bias });
}

/** Queries and keys are normed (Dehghani et al. 2023): with weights of their own, and before they rotate or after. */
export interface QueryKeyNorm {
  /** Over each head, or over all of a token's queries or keys. */
  readonly over: 'head' | 'projection';
  /** Means are subtracted as well; otherwise they are not. */
  readonly centered?: boolean;
  /** Every head has a weight of its own. */
  readonly weightPerHead?: boolean;
  readonly eps: number;
  readonly weightOffset?: number;
  /** What weights and biases are called before the last point, of queries and of keys; absent where there are none. */
  readonly names?: readonly [string, string];
  /** Layers that have it; otherwise all. */
  readonly only?: (blockIndex: number) => boolean;
  readonly afterRotary?: boolean;
}

/** What most families call them. */
export const QUERY_KEY_NORMS = ['self_attn.q_norm', 'self_attn.k_norm'] as const;

/** Definitions of its weights, which are no matrices: none is multiplied with. */
export function queryKeyNormTensors(
  path: string,
  { over, weightPerHead, names }: Pick<QueryKeyNorm, 'over' | 'weightPerHead' | 'names'>,
  { nHeads, nKv, D }: GroupedHeads,
): TensorDef[] {
  if (!names) return [];
  return [nHeads, nKv].map((count, i) => ({
    key: `${names[i]}.weight`,
    name: `${path}${names[i]}.weight`,
    shape: over === 'projection' ? [count * D] : weightPerHead ? [count, D] : [D],
    isBias: true,
  }));
}

export interface RotaryAttention extends GroupedHeads {
  /** Factor on the product of a query and a key. */
  readonly scale: number;
  /** Undefined where a layer does not rotate. */
  readonly ropeOf: (blockIndex: number) => LayerRope | undefined;
  /** Pairs are neighbours (Wang & Komatsuzaki 2021), not a half away from each other. */
  readonly interleaved?: boolean;
  /** Tokens that a layer sees; 0 for all. */
  readonly windowTokens: (blockIndex: number) => number;
  readonly queryKeyNorm?: QueryKeyNorm | undefined;
  readonly queryScaleOf?: ((blockIndex: number) => PositionScale | undefined) | undefined;
  /** Tokens of the runs that a layer sees one of; 0 for all. */
  readonly chunkTokens?: ((blockIndex: number) => number) | undefined;
  readonly softCap?: number;
  /** The query projection has a gate behind each head's query: its sigmoid scales what the head has seen. */
  readonly isGated?: boolean | undefined;
  /** Each head has a score in `self_attn.sinks` that takes its share of every softmax (Xiao et al. 2024). */
  readonly hasSinks?: boolean;
}

/** Attention of normed [T, H] with separate projections, before the output projection: [T, nHeads · D]. */
export function separateAttention(
  k: ForwardOps,
  w: Weights,
  normed: Tensor,
  attention: RotaryAttention,
  blockIndex: number,
): Tensor {
  const { nHeads, nKv, D, isGated = false, queryKeyNorm: norm } = attention;
  const queries = project(k, w, normed, 'self_attn.q_proj'); // [T, nHeads · D], twice that with gates
  const keys = project(k, w, normed, 'self_attn.k_proj'); // [T, nKv · D]
  const value = heads(project(k, w, normed, 'self_attn.v_proj'), nKv, D); // [T, nKv, D]
  const ofHead = (first: number) => heads(queries, nHeads, D, first, isGated ? 2 * D : D); // [T, nHeads, D]
  const [q, key] = [ofHead(0), heads(keys, nKv, D)]; // [T, nHeads, D], [T, nKv, D]
  const normAll = () => {
    if (!norm || norm.only?.(blockIndex) === false) return;
    const both = norm.over === 'head' ? [q, key] : [queries, keys];
    both.forEach((x, i) => {
      const [name, { eps, weightOffset }] = [norm.names?.[i], norm];
      if (name === undefined) k.rmsNorm(x, null, eps, 0, x);
      else if (norm.centered) k.layerNorm(x, w(`${name}.weight`), w.optional(`${name}.bias`), eps, x);
      else k.rmsNorm(x, w(`${name}.weight`), eps, weightOffset, x);
    });
  };
  if (!norm?.afterRotary) normAll();
  rotate(k, [q, key], attention, blockIndex);
  if (norm?.afterRotary) normAll();
  const sinks = attention.hasSinks ? w('self_attn.sinks') : undefined;
  const seen = attend(k, [q, key, value], { ...attention, sinks }, blockIndex);
  if (isGated) k.gateSigmoid(heads(seen, nHeads, D), ofHead(D));
  return seen;
}

/** Rotates q [T, nHeads, D] and key [T, nKv, D], then attends: [T, nHeads · D]. */
export function rotateAndAttend(
  k: ForwardOps,
  [q, key, value]: readonly [Tensor, Tensor, Tensor],
  attention: RotaryAttention & { readonly sinks?: Tensor | undefined },
  blockIndex: number,
): Tensor {
  rotate(k, [q, key], attention, blockIndex);
  return attend(k, [q, key, value], attention, blockIndex);
}

function rotate(
  k: ForwardOps,
  [q, key]: readonly [Tensor, Tensor],
  { ropeOf, interleaved = false }: RotaryAttention,
  blockIndex: number,
): void {
  const rope = ropeOf(blockIndex);
  if (!rope) return;
  const { scale, byLength } = rope.use;
  const inverse = k.constant(rope.constant); // [≤ D / 2]
  for (const x of [q, key]) {
    if (byLength) k.rotaryByLength(x, inverse, byLength, { scale, interleaved });
    else k.rotary(x, inverse, { scale, interleaved });
  }
}

function attend(
  k: ForwardOps,
  [q, key, value]: readonly [Tensor, Tensor, Tensor],
  attention: RotaryAttention & { readonly sinks?: Tensor | undefined },
  blockIndex: number,
): Tensor {
  const { scale, windowTokens, softCap = 0, sinks } = attention;
  const queryScale = attention.queryScaleOf?.(blockIndex);
  const chunkTokens = attention.chunkTokens?.(blockIndex) ?? 0;
  if (queryScale) k.scaleByPosition(q, queryScale);
  return k.attention(q, key, value, {
    scale,
    windowTokens: windowTokens(blockIndex),
    chunkTokens,
    softCap,
    sinks,
  });
}
