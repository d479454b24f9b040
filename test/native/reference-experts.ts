// A mixture of experts in float64 and plain loops.

import type { Op, Tensor } from '../../offload/port/ops.js';
import type { Values, Written } from './reference-values.js';
import type { WeightValues } from './reference-weights.js';

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

export function combineChoices(
  { x: into, y: rows, weights: factors, accumulate }: Extract<Op, { op: 'combine' }>,
  read: (tensor: Tensor) => Values,
): Written {
  const [x, y, weights] = [read(into), read(rows), factors && read(factors)];
  const each = y.size(0) / Math.max(1, x.size(0));
  for (let t = 0; t < x.size(0); t++) {
    for (let i = 0; i < x.size(1); i++) {
      let sum = accumulate ? x.get(t, i) : 0;
      for (let j = 0; j < each; j++) sum += (weights?.get(t, j) ?? 1) * y.get(t * each + j, i);
      x.set(sum, t, i);
    }
  }
  return x.written;
}
