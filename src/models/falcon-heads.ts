// The fused query, key and value projection of Falcon's three generations, taken apart.

import {
  columns,
  dimension,
  type ForwardOps,
  heads,
  rows,
  type Tensor,
  type Weights,
  weightRows,
} from '../../offload/index.js';
import type { GroupedHeads } from './decoder-parts.js';
import { project } from './decoder-parts.js';

export interface FusedHeads extends GroupedHeads {
  /**
   * How queries, keys and values share the projection's rows. `groups` (40B): per group its query heads, its key, its
   * value; `multi-query` (7B): all query heads, one key, one value; `heads` (RW): per head its query, key and value.
   */
  readonly layout: 'groups' | 'multi-query' | 'heads';
}

/** normed [T, H] → q [T, nHeads, D], key and value [T, nKv, D]. */
export function splitFused(
  k: ForwardOps,
  w: Weights,
  normed: Tensor,
  { layout, nHeads, nKv, D }: FusedHeads,
): readonly [Tensor, Tensor, Tensor] {
  if (layout === 'groups') return splitGroups(k, w, normed, { G: nHeads / nKv, nKv, D });
  const qkv = project(k, w, normed, 'self_attention.query_key_value'); // [T, (nHeads + 2 nKv) · D]
  if (layout === 'heads') {
    const part = (index: number) => heads(qkv, nHeads, D, index * D, 3 * D);
    return [part(0), part(1), part(2)];
  }
  return [heads(qkv, nHeads, D), heads(qkv, 1, D, nHeads * D), heads(qkv, 1, D, (nHeads + 1) * D)];
}

/**
 * A group's rows are G query heads, a key and a value, so the queries of all groups have no single stride: each group
 * is a product of its own, into its place among all queries.
 */
function splitGroups(
  k: ForwardOps,
  w: Weights,
  normed: Tensor,
  { G, nKv, D }: { readonly G: number; readonly nKv: number; readonly D: number },
): readonly [Tensor, Tensor, Tensor] {
  const tokens = dimension(normed, 0);
  const weight = w.matrix('self_attention.query_key_value.weight'); // [nKv · (G + 2) · D, H]
  const bias = w.optional('self_attention.query_key_value.bias');
  const q = k.empty([tokens, nKv * G * D]);
  const keyValue = k.empty([tokens, nKv * 2 * D]);
  const multiply = (firstRow: number, count: number, out: Tensor) =>
    k.linear(normed, weightRows(weight, firstRow, count), { bias: bias && rows(bias, firstRow, count) }, out);
  for (let group = 0; group < nKv; group++) {
    const first = group * (G + 2) * D;
    multiply(first, G * D, columns(q, group * G * D, G * D));
    multiply(first + G * D, 2 * D, columns(keyValue, group * 2 * D, 2 * D));
  }
  return [heads(q, nKv * G, D), heads(keyValue, nKv, D, 0, 2 * D), heads(keyValue, nKv, D, D, 2 * D)];
}
