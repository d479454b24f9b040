// A mixture's choice of experts in float64 and plain loops.

import type { Op, RouteRule, Tensor } from '../../offload/port/ops.js';
import type { Values, Written } from './reference-values.js';

export function routeTokens(op: Extract<Op, { op: 'route' }>, read: (tensor: Tensor) => Values): Written[] {
  const [experts, weights, logits] = [read(op.experts), read(op.weights), read(op.logits)];
  const of = (tensor: Tensor | null) => (tensor ? read(tensor) : undefined);
  const [bias, factors, table, rows] = [of(op.bias), of(op.expertScale), of(op.table), of(op.rows)];
  const [count, each] = [logits.size(1), experts.size(1)];
  const { rule } = op;
  for (let t = 0; t < logits.size(0); t++) {
    const row = Array.from({ length: count }, (_, e) => logits.get(t, e));
    const put = (j: number, expert: number, weight: number) => {
      experts.set(expert, t, j);
      weights.set(weight, t, j);
    };
    const scores = scoresOf(row, rule);
    const biases = bias && !table ? Array.from({ length: count }, (_, e) => bias.get(e)) : undefined;
    const order = orderOf(row, scores, rule, biases);
    if (![...row, ...(biases ?? [])].every(Number.isFinite)) {
      for (let j = 0; j < each; j++) put(j, j, Number.NaN);
      continue;
    }
    if (rule.sparseMixer > 0) {
      mixed(row, each, rule.sparseMixer).forEach(([expert, weight], j) => {
        put(j, expert, weight);
      });
      continue;
    }
    const width = table ? table.size(1) / each : 1;
    const chosen = table
      ? Array.from({ length: each }, (_, j) => table.get(rows?.get(t) ?? 0, j * width))
      : falling(order).slice(0, each);
    const sum = chosen.reduce((total, e) => total + (scores[e] ?? 0), 0);
    const divisor = rule.normalize ? Math.max(sum, rule.leastSum) + rule.addedToSum : 1;
    chosen.forEach((e, j) => {
      put(j, e, ((scores[e] ?? 0) / divisor) * rule.scale * (factors?.get(e) ?? 1));
    });
  }
  return [experts.written, weights.written];
}

function scoresOf(row: readonly number[], { score }: RouteRule): number[] {
  switch (score) {
    case 'softmax': {
      const maximum = Math.max(...row);
      const parts = row.map((logit) => Math.exp(logit - maximum));
      const total = parts.reduce((sum, part) => sum + part, 0);
      return parts.map((part) => part / total);
    }
    case 'sigmoid':
      return row.map((logit) => 1 / (1 + Math.exp(-logit)));
    case 'sqrt_softplus':
      return row.map((logit) => Math.sqrt(logit > 20 ? logit : Math.log1p(Math.exp(logit))));
  }
}

/** What experts are compared by; −∞ for those of groups that are not kept. Scores are of f32 there. */
function orderOf(
  row: readonly number[],
  scores: readonly number[],
  rule: RouteRule,
  biases: readonly number[] | undefined,
): number[] {
  if (!biases && rule.groups === 1) return [...row];
  const values = scores.map((score, e) => Math.fround(Math.fround(score) + (biases?.[e] ?? 0)));
  if (rule.groups === 1) return values;
  const size = values.length / rule.groups;
  const best = Array.from({ length: rule.groups }, (_, g) => {
    const of = values.slice(g * size, (g + 1) * size).sort((a, b) => b - a);
    return of.slice(0, rule.groupBest).reduce((sum, value) => Math.fround(sum + value), 0);
  });
  const kept = new Set(falling(best).slice(0, rule.groupsKept));
  return values.map((value, e) => (kept.has(Math.floor(e / size)) ? value : Number.NEGATIVE_INFINITY));
}

function falling(values: readonly number[]): number[] {
  return [...values.keys()].sort((a, b) =>
    values[b] === values[a] ? a - b : (values[b] ?? 0) - (values[a] ?? 0),
  );
}

function mixed(row: readonly number[], each: number, threshold: number): [number, number][] {
  const left = new Set(row.keys());
  return falling(row)
    .slice(0, each)
    .map((best) => {
      const most = row[best] ?? 0;
      const near = [...left].filter((e) => {
        const logit = row[e] ?? 0;
        const share = Math.fround(Math.fround(most - logit) / Math.max(Math.abs(logit), most));
        return !(share > Math.fround(threshold));
      });
      left.delete(best);
      return [best, 1 / near.reduce((sum, e) => sum + Math.exp((row[e] ?? 0) - most), 0)];
    });
}
