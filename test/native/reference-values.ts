// Tensors as float64 arrays that are indexed by coordinates: what reference operations are written with.

import { elementCount } from '../../offload/dtype.js';
import type { Tensor } from '../../offload/ops.js';
import { type Bytes, readElement } from './tensor-bytes.js';

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

  constructor(tensor: Tensor, bytes: Bytes) {
    this.tensor = tensor;
    this.shape = tensor.shape;
    this.values = new Float64Array(elementCount(tensor.shape));
    for (let i = 0; i < this.values.length; i++) {
      this.values[i] = readElement(tensor, bytes(tensor.memory), this.#coordinates(i));
    }
  }

  size(dimension: number): number {
    return this.shape[dimension] ?? 0;
  }

  get(...at: number[]): number {
    return this.values[this.#flat(at)] ?? Number.NaN;
  }

  set(value: number, ...at: number[]): void {
    this.values[this.#flat(at)] = value;
  }

  get written(): Written {
    return { tensor: this.tensor, values: this.values };
  }

  #flat(at: readonly number[]): number {
    return at.reduce((index, coordinate, dimension) => index * this.size(dimension) + coordinate, 0);
  }

  #coordinates(flat: number): number[] {
    const at: number[] = [];
    for (let d = this.shape.length - 1; d >= 0; d--) {
      at.unshift(flat % this.size(d));
      flat = Math.floor(flat / this.size(d));
    }
    return at;
  }
}
