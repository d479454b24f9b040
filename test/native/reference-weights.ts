// The values of stored weights in float64, by the definition in offload/port/formats.ts.

import { present } from '../../offload/errors.js';
import type { Tensor, Weight } from '../../offload/port/ops.js';
import type { Values } from './reference-values.js';

/** The value of row n, input k. */
export type WeightValues = (n: number, k: number) => number;

export function weightValues({ format, parts }: Weight, read: (tensor: Tensor) => Values): WeightValues {
  const codes = read(present(parts.codes, 'codes'));
  if (format.name === 'dense') return (n, k) => codes.get(n, k);
  if (format.name === 'dense_in') return (n, k) => codes.get(k, n);
  throw new Error(`the reference has no ${format.name}`);
}
