// Tensors as float64 arrays that are indexed by coordinates: what reference operations are written with.

import type { Tensor } from '../../offload/port/ops.js';
import { type Bytes, readElements } from './tensor-bytes.js';

/** What a tensor holds afterwards, in row-major order. */
export interface Written {
  readonly tensor: Tensor;
  readonly values: Float64Array;
}

/** A tensor as an array indexed by its coordinates. */
export class Values {
  readonly tensor: Tensor;
  readonly shape: readonly number[];
  readonly values: Float64Array;

  // Elements from one index of a dimension to the next; a missing dimension's index is 0.
  readonly #steps0: number;
  readonly #steps1: number;
  readonly #steps2: number;

  constructor(tensor: Tensor, bytes: Bytes) {
    this.tensor = tensor;
    this.shape = tensor.shape;
    const [, second = 1, third = 1, fourth = 1] = tensor.shape;
    this.#steps0 = second * third * fourth;
    this.#steps1 = third * fourth;
    this.#steps2 = fourth;
    this.values = readElements(tensor, bytes(tensor.memory));
  }

  size(dimension: number): number {
    return this.shape[dimension] ?? 0;
  }

  get(a: number, b = 0, c = 0, d = 0): number {
    return this.values[this.#flat(a, b, c, d)] ?? Number.NaN;
  }

  set(value: number, a: number, b = 0, c = 0, d = 0): void {
    this.values[this.#flat(a, b, c, d)] = value;
  }

  get written(): Written {
    return { tensor: this.tensor, values: this.values };
  }

  // In the innermost loops of every reference: no arrays.
  #flat(a: number, b: number, c: number, d: number): number {
    return a * this.#steps0 + b * this.#steps1 + c * this.#steps2 + d;
  }
}
