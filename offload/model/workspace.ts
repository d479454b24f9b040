// Scratch of one layer and micro-batch, which a forward's results lie in.

import { assert } from '../errors.js';
import { DTYPE_BYTES, type DType, elementCount } from '../port/dtype.js';
import type { Memory, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { roundUp } from '../units.js';

const WORKSPACE_ALIGNMENT_BYTES = 64;

/** Scratch of one layer and micro-batch: a bump allocator over memory that the plan sized by a dry run. */
export class Workspace {
  /** The type of what a forward makes between its layers' weights; the residual is f32 whatever it is. */
  readonly activationType: DType;
  readonly #memory: Memory;
  #usedBytes = 0;
  #peakBytes = 0;

  constructor(memory: Memory, activationType: DType) {
    this.#memory = memory;
    this.activationType = activationType;
  }

  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** Everything handed out before becomes free; queued operations of one stream keep their order, so this is safe. */
  reset(): void {
    this.#usedBytes = 0;
  }

  allocate(shape: readonly number[], dtype: DType): Tensor {
    const result = tensor(this.#memory, this.#usedBytes, dtype, shape);
    const sizeBytes = elementCount(shape) * DTYPE_BYTES[dtype];
    this.#usedBytes = roundUp(this.#usedBytes + sizeBytes, WORKSPACE_ALIGNMENT_BYTES);
    this.#peakBytes = Math.max(this.#peakBytes, this.#usedBytes);
    assert(this.#usedBytes <= this.#memory.sizeBytes, 'the workspace holds what the dry run measured');
    return result;
  }
}
