// A mixture of experts in float64 and plain loops.

import type { Values, Written } from './reference-values.js';
import type { WeightValues } from './reference-weights.js';

export function routeTokens(experts: Values, weights: Values, logits: Values, normalize: boolean): Written[] {
  const count = logits.size(1);
  for (let t = 0; t < logits.size(0); t++) {
    const row = Array.from({ length: count }, (_, e) => logits.get(t, e));
    const known = row.every(Number.isFinite);
    const maximum = Math.max(...row);
    const order = [...row.keys()].sort((a, b) => (row[b] ?? 0) - (row[a] ?? 0) || a - b);
    const chosen = (known ? order : [...row.keys()]).slice(0, experts.size(1));
    const total = (normalize ? chosen.map((e) => row[e] ?? 0) : row)
      .map((logit) => Math.exp(logit - maximum))
      .reduce((sum, p) => sum + p, 0);
    chosen.forEach((e, j) => {
      experts.set(e, t, j);
      weights.set(known ? Math.exp((row[e] ?? 0) - maximum) / total : Number.NaN, t, j);
    });
  }
  return [experts.written, weights.written];
}

export function expertProducts(
  out: Values,
  x: Values,
  experts: Values,
  weights: readonly WeightValues[],
): Written {
  const each = experts.size(1);
  for (let choice = 0; choice < out.size(0); choice++) {
    const token = Math.floor(choice / each);
    const weight = weights[experts.get(token, choice % each)];
    const row = x.size(0) === out.size(0) ? choice : token;
    for (let n = 0; n < out.size(1); n++) {
      let sum = 0;
      for (let k = 0; k < x.size(1); k++) sum += x.get(row, k) * (weight?.(n, k) ?? Number.NaN);
      out.set(sum, choice, n);
    }
  }
  return out.written;
}

export function biasedChoices(x: Values, experts: Values, bias: Values): Written {
  const each = experts.size(1);
  for (let choice = 0; choice < x.size(0); choice++) {
    const expert = experts.get(Math.floor(choice / each), choice % each);
    for (let n = 0; n < x.size(1); n++) x.set(x.get(choice, n) + bias.get(expert, n), choice, n);
  }
  return x.written;
}

export function combineChoices(x: Values, y: Values, weights: Values): Written {
  const each = weights.size(1);
  for (let t = 0; t < x.size(0); t++) {
    for (let i = 0; i < x.size(1); i++) {
      let sum = x.get(t, i);
      for (let j = 0; j < each; j++) sum += weights.get(t, j) * y.get(t * each + j, i);
      x.set(sum, t, i);
    }
  }
  return x.written;
}
