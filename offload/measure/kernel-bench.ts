// Operands on a device and the time of operations on them, queued as a pass queues them.

import type { Backend, Device, HostMemory } from '../port/backend.js';
import { reached } from '../port/device-failure.js';
import { DTYPE_BYTES, type DType, elementCount } from '../port/dtype.js';
import type { Memory, Op, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { MiB } from '../units.js';
import type { BenchSizes } from './bench-sizes.js';
import { median } from './median.js';

const TABLE_WORDS = 2 ** 16;
const FILL_BYTES = 16 * MiB;
export const RUNS = 5;
const FEWEST_RUNS = 3;
const LONG_MS = 100;
const MOST_AT_ONCE = 256;

export class KernelBench {
  readonly device: Device;
  readonly sizes: BenchSizes;
  /** Weights, keys and values. */
  readonly cold: Memory;
  /** Inputs and results. */
  readonly scratch: Memory;
  readonly #backend: Backend;
  /** Integer tables, where JavaScript writes them and where kernels read them. */
  readonly #host: HostMemory;
  readonly #tables: Memory;

  constructor(backend: Backend, device: Device, sizes: BenchSizes) {
    this.#backend = backend;
    this.device = device;
    this.sizes = sizes;
    this.cold = this.#filled(sizes.coldBytes);
    this.scratch = this.#filled(sizes.scratchBytes);
    this.#host = backend.allocateHost(TABLE_WORDS * 4, 'control');
    this.#tables = device.computesInPlace ? this.#host : device.allocate(TABLE_WORDS * 4);
  }

  /** Pages that were never written are one page of zeros, which is always in the cache. 0x3c3c is harmless in every type. */
  #filled(sizeBytes: number): Memory {
    const { computesInPlace } = this.device;
    const host = this.#backend.allocateHost(
      computesInPlace ? sizeBytes : FILL_BYTES,
      computesInPlace ? 'resident' : 'control',
    );
    host.bytes.fill(0x3c);
    if (computesInPlace) return host;
    const memory = this.device.allocate(sizeBytes);
    for (let at = 0; at < sizeBytes; at += FILL_BYTES) {
      this.device.compute.copy(memory, at, host, 0, Math.min(FILL_BYTES, sizeBytes - at));
    }
    return memory;
  }

  /**
   * Milliseconds of one operation among many that are queued at once, as in a pass: on a shared machine what interrupts
   * a pass interrupts these as well. Median of the batches, after one that does not count.
   */
  async medianMs(next: () => Op): Promise<number> {
    const single = await this.#batchMs(next, 1);
    const count = Math.min(MOST_AT_ONCE, Math.max(1, Math.ceil(this.sizes.batchMs / Math.max(single, 1e-3))));
    const runs = single * count > LONG_MS ? FEWEST_RUNS : RUNS;
    const times: number[] = [];
    for (let run = 0; run < runs; run++) times.push(await this.#batchMs(next, count));
    return median(times);
  }

  async #batchMs(next: () => Op, count: number): Promise<number> {
    const { compute } = this.device;
    const start = compute.record();
    for (let i = 0; i < count; i++) compute.launch(next());
    const end = compute.record();
    await reached(end);
    return (end.timeMs - start.timeMs) / count;
  }

  /** In scratch. */
  at(offsetBytes: number, shape: readonly number[], dtype: DType): Tensor {
    return tensor(this.scratch, offsetBytes, dtype, shape);
  }

  fits({ offsetBytes, shape, dtype }: Tensor): boolean {
    return offsetBytes + elementCount(shape) * DTYPE_BYTES[dtype] <= this.sizes.scratchBytes;
  }

  /** Tables of one operation; those of the last one are no longer read. */
  ints(...tables: { shape: readonly number[]; values: readonly number[] }[]): Tensor[] {
    const { buffer, byteOffset } = this.#host.bytes;
    const words = new Int32Array(buffer, byteOffset, TABLE_WORDS);
    let next = 0;
    const placed = tables.map(({ shape, values }) => {
      words.set(values, next);
      const table = tensor(this.#tables, next * 4, 'i32', shape);
      next += values.length;
      return table;
    });
    if (this.#tables !== this.#host) {
      this.device.compute.copy(this.#tables, 0, this.#host, 0, next * 4);
    }
    return placed;
  }
}
