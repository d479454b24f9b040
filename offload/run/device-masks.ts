// Which tokens the outputs of a pass may be: written by JavaScript while layers compute, and brought to where tokens are drawn.

import { assert } from '../errors.js';
import type { Plan } from '../plan/plan.js';
import type { Backend, Device, HostMemory } from '../port/backend.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import type { Memory, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import type { MicroBatch } from './pass.js';

export interface DeviceMasksOptions {
  readonly backend: Backend;
  readonly device: Device;
  readonly plan: Pick<Plan, 'sequences' | 'maskWords'>;
}

/** A micro-batch of a pass, and which output of the pass is its first. */
interface Placed {
  readonly microBatch: MicroBatch;
  readonly firstOutput: number;
}

export class DeviceMasks {
  /** i32 [sequences, words], where kernels read them: row r is that of output r of the pass. */
  readonly all: Tensor;
  readonly #device: Device;
  readonly #host: HostMemory;
  readonly #memory: Memory;
  readonly #words: Uint32Array;
  readonly #wordsEach: number;

  constructor({ backend, device, plan: { sequences, maskWords } }: DeviceMasksOptions) {
    const count = sequences * maskWords;
    this.#device = device;
    this.#host = backend.allocateHost(count * DTYPE_BYTES.i32, 'control');
    this.#memory = device.computesInPlace ? this.#host : device.allocate(this.#host.sizeBytes);
    this.#words = new Uint32Array(this.#host.bytes.buffer, this.#host.bytes.byteOffset, count);
    this.#wordsEach = maskWords;
    this.all = tensor(this.#memory, 0, 'i32', [sequences, maskWords]);
  }

  /** Resolves when they are known and their way to the device is queued. No pass before this one reads them any more. */
  async take(running: readonly Placed[]): Promise<void> {
    let rows = 0;
    for (const { microBatch, firstOutput } of running) {
      for (const [index, { allowed }] of (microBatch.sampling ?? []).entries()) {
        if (!allowed) continue;
        this.#write(firstOutput + index, await allowed);
        rows = firstOutput + index + 1;
      }
    }
    if (this.#memory === this.#host) return;
    const sizeBytes = rows * this.#wordsEach * DTYPE_BYTES.i32;
    this.#device.compute.copy(this.#memory, 0, this.#host, 0, sizeBytes);
  }

  #write(row: number, mask: Uint32Array | undefined): void {
    const first = row * this.#wordsEach;
    if (mask) {
      assert(mask.length === this.#wordsEach, 'a mask has a bit for each token of the vocabulary');
      this.#words.set(mask, first);
    } else {
      this.#words.fill(0xffffffff, first, first + this.#wordsEach);
    }
  }
}
