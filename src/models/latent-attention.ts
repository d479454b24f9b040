// Latent attention (DeepSeek-AI 2024): a token caches one small vector for all heads, which is key and value at once.
//
// A head's key is its own rows of kv_b times the latent, beside a rotated part that all heads share. The rows are multiplied
// into the query instead, and those of the values into what attention gives: then the latent itself is the only key, and its
// first part the value, whatever the number of heads.

import {
  type CacheSpec,
  columns,
  dimension,
  type ForwardOps,
  heads,
  type PositionScale,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { project } from './decoder-parts.js';
import type { LayerRope } from './layer-ropes.js';

/** Both inner norms have it, whatever the configuration says of the others. */
const INNER_EPS = 1e-6;

export interface LatentHeads {
  readonly nHeads: number;
  /** Inner size of the queries' projection; undefined where it is one matrix. */
  readonly queryRank: number | undefined;
  readonly latentDim: number;
  /** A query's and a key's dimensions without a position, and those that rotate. */
  readonly plainDim: number;
  readonly ropeDim: number;
  readonly valueDim: number;
}

export interface LatentAttention extends LatentHeads {
  /** Factor on the product of a query and a key. */
  readonly scale: number;
  readonly rope: LayerRope;
  readonly interleaved: boolean;
  readonly queryScale?: PositionScale | undefined;
}

/** The constant that latent attention adds where it copies. */
export const NOTHING = 'nothing';

export function readLatentHeads(config: ConfigReader, usual: Omit<LatentHeads, 'nHeads'>): LatentHeads {
  const hasRank = config.raw('q_lora_rank') !== undefined || !config.has('q_lora_rank');
  const ropeDim = config.count(['qk_rope_head_dim'], usual.ropeDim);
  if (ropeDim % 2 !== 0) throw config.unsupported('qk_rope_head_dim', ropeDim, 'even numbers');
  return {
    nHeads: config.shared(config.count(['num_attention_heads']), 'num_attention_heads'),
    queryRank: hasRank ? config.count(['q_lora_rank'], usual.queryRank) : undefined,
    latentDim: config.count(['kv_lora_rank'], usual.latentDim),
    plainDim: config.count(['qk_nope_head_dim'], usual.plainDim),
    ropeDim,
    valueDim: config.count(['v_head_dim'], usual.valueDim),
  };
}

/** 1 over the root of a key's dimensions; longer rotations (Peng et al. 2023) make scores steeper. */
export function latentScale(config: ConfigReader, { plainDim, ropeDim }: LatentHeads): number {
  const scale = 1 / Math.sqrt(plainDim + ropeDim);
  const parameters = config.object('rope_scaling', 'rope_parameters');
  const type = parameters?.text(['rope_type', 'type'], 'default') ?? 'default';
  const allDims = parameters?.number(['mscale_all_dim'], 0) ?? 0;
  if (!parameters || type === 'default' || allDims === 0) return scale;
  const factor = parameters.number(['factor']);
  return factor <= 1 ? scale : scale * (0.1 * allDims * Math.log(factor) + 1) ** 2;
}

export function latentCaches(blockCount: number, { latentDim, ropeDim }: LatentHeads): CacheSpec[] {
  const keyDim = latentDim + ropeDim;
  const cache = { kind: 'paged', kvHeads: 1, keyDim, valueDim: latentDim, valuesInKeys: true } as const;
  return Array.from({ length: blockCount }, () => cache);
}

export function latentShapes(H: number, of: LatentHeads, bias: boolean) {
  const { nHeads, queryRank, latentDim, plainDim, ropeDim, valueDim } = of;
  const queries = nHeads * (plainDim + ropeDim);
  const low = queryRank !== undefined;
  return {
    'self_attn.q_proj.weight': low ? undefined : [queries, H],
    'self_attn.q_a_proj.weight': low ? [queryRank, H] : undefined,
    'self_attn.q_a_proj.bias': low && bias ? [queryRank] : undefined,
    'self_attn.q_a_layernorm.weight': low ? [queryRank] : undefined,
    'self_attn.q_b_proj.weight': low ? [queries, queryRank] : undefined,
    'self_attn.kv_a_proj_with_mqa.weight': [latentDim + ropeDim, H],
    'self_attn.kv_a_proj_with_mqa.bias': bias ? [latentDim + ropeDim] : undefined,
    'self_attn.kv_a_layernorm.weight': [latentDim],
    'self_attn.kv_b_proj.weight': [nHeads * (plainDim + valueDim), latentDim],
    'self_attn.o_proj.weight': [H, nHeads * valueDim],
    'self_attn.o_proj.bias': bias ? [H] : undefined,
  };
}

/** Attention of normed [T, H], before the output projection: [T, nHeads · valueDim]. */
export function latentAttention(k: ForwardOps, w: Weights, normed: Tensor, of: LatentAttention): Tensor {
  const { nHeads, latentDim, plainDim, ropeDim, valueDim, scale, queryScale } = of;
  const [each, keyDim] = [plainDim + ropeDim, latentDim + ropeDim];
  const queries = projectQueries(k, w, normed, of); // [T, nHeads · (plain + rope)]
  const turning = heads(queries, nHeads, ropeDim, plainDim, each);
  const compressed = project(k, w, normed, 'self_attn.kv_a_proj_with_mqa'); // [T, latent + rope]
  const latent = columns(compressed, 0, latentDim);
  k.rmsNorm(latent, w('self_attn.kv_a_layernorm.weight'), INNER_EPS, 0, latent);
  rotate(k, turning, of);
  rotate(k, heads(compressed, 1, ropeDim, latentDim), of);
  if (queryScale) k.scaleByPosition(heads(queries, nHeads, each), queryScale);

  const query = k.empty([dimension(normed, 0), nHeads * keyDim]);
  const kvB = w.matrix('self_attn.kv_b_proj.weight');
  const ofKeys = { firstRow: 0, rows: plainDim, transposed: true };
  const plain = heads(queries, nHeads, plainDim, 0, each);
  k.headLinear(plain, kvB, ofKeys, heads(query, nHeads, latentDim, 0, keyDim));
  k.add(turning, spread(k.constant(NOTHING), turning), heads(query, nHeads, ropeDim, latentDim, keyDim));

  const key = heads(compressed, 1, keyDim);
  const attended = k.attention(heads(query, nHeads, keyDim), key, null, { scale }); // [T, nHeads · latent]
  const out = k.empty([dimension(normed, 0), nHeads * valueDim]);
  const ofValues = { firstRow: plainDim, rows: valueDim };
  k.headLinear(heads(attended, nHeads, latentDim), kvB, ofValues, heads(out, nHeads, valueDim));
  return out;
}

function projectQueries(k: ForwardOps, w: Weights, normed: Tensor, { queryRank }: LatentHeads): Tensor {
  if (queryRank === undefined) return project(k, w, normed, 'self_attn.q_proj');
  const low = project(k, w, normed, 'self_attn.q_a_proj'); // [T, queryRank]
  k.rmsNorm(low, w('self_attn.q_a_layernorm.weight'), INNER_EPS, 0, low);
  return project(k, w, low, 'self_attn.q_b_proj');
}

/** x [T, heads, ropeDim], in place. */
function rotate(k: ForwardOps, x: Tensor, { rope, interleaved }: LatentAttention): void {
  const { scale, byLength } = rope.use;
  const frequencies = k.constant(rope.constant);
  if (byLength) k.rotaryByLength(x, frequencies, byLength, { scale, interleaved });
  else k.rotary(x, frequencies, { scale, interleaved });
}

/** The same values for every row of `like`. */
function spread(values: Tensor, like: Tensor): Tensor {
  return { ...values, shape: like.shape, strides: [0, 0, 1] };
}
