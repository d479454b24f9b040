// Measures what the predictor needs: the kernels on operands like a model's, and a drive through the read engine.

import type { Backend, Device, HostMemory } from './backend.js';
import { DTYPE_BYTES, type DType, elementCount } from './dtype.js';
import { measureComputeLimits } from './hardware.js';
import { PAGE_TOKENS } from './kv-cache.js';
import type { Op, Tensor } from './ops.js';
import type { HardwareProfile, ProductRates } from './profile.js';
import { tensor } from './tensor.js';
import { MiB, roundDown } from './units.js';

export type WeightType = ProductRates['weightType'];

/** Weights are taken in turn from as much memory as this, so that none is in a cache when its turn comes. */
const COLD_BYTES = 160 * MiB;
/** Short rows are a little slower than long ones: what starts and ends a row is paid more often. */
const WEIGHT_SHAPE = [4096, 2048] as const;
const TOKENS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const RUNS = 5;
const FEWEST_RUNS = 3;
const LONG_MS = 100;
/** Longer than what a scheduler gives a thread at once. */
const BATCH_MS = 40;
const MOST_AT_ONCE = 256;
/** Hand-overs between native threads and JavaScript from one pass to the next. */
const PASS_ROUND_TRIPS = 6;

/** Takes about a second per type of weights and COLD_BYTES of memory meanwhile; the backend must be idle. */
export async function measureCompute(
  backend: Backend,
  device: Device,
  weightTypes: readonly WeightType[],
  threads?: number,
): Promise<HardwareProfile['compute']> {
  const bench = new Bench(backend, device);
  const products: ProductRates[] = [];
  for (const weightType of weightTypes) products.push(await bench.products(weightType));
  const limits = measureComputeLimits(threads);
  return {
    memoryBytesPerSecond: limits.memoryBytesPerSecond,
    peakFlopsPerSecond: limits.flopsPerSecond,
    products,
    ...(await bench.attention()),
    elementwiseBytesPerSecond: await bench.elementwise(),
    launchMs: await bench.launch(),
    passMs: PASS_ROUND_TRIPS * (await bench.roundTrip()),
  };
}

class Bench {
  readonly #backend: Backend;
  readonly #device: Device;
  readonly #memory: HostMemory;
  readonly #scratch: HostMemory;

  constructor(backend: Backend, device: Device) {
    this.#backend = backend;
    this.#device = device;
    this.#memory = backend.allocateHost(COLD_BYTES, 'resident');
    this.#scratch = backend.allocateHost(64 * MiB, 'resident');
    // Pages that were never written are one page of zeros, which is always in the cache. 0x3c3c is harmless in every type.
    this.#memory.bytes.fill(0x3c);
    this.#scratch.bytes.fill(0x3c);
  }

  async products(weightType: WeightType): Promise<ProductRates> {
    const [outputs, inputs] = WEIGHT_SHAPE;
    const weightBytes = elementCount(WEIGHT_SHAPE) * DTYPE_BYTES[weightType];
    const count = Math.floor(COLD_BYTES / weightBytes);
    let next = 0;
    const points = [];
    for (const tokens of TOKENS) {
      const x = this.#floats(0, [tokens, inputs]);
      const out = this.#floats(tokens * inputs, [tokens, outputs]);
      const ms = await this.#medianMs(() => {
        const offset = (next++ % count) * weightBytes;
        const weight = tensor(this.#memory, offset, weightType, WEIGHT_SHAPE);
        const base = { bias: null, inputMajor: false, activation: 'none', accumulate: false } as const;
        return { op: 'linear', out, x, weight, ...base };
      });
      points.push({ tokens, flopsPerSecond: (2 * tokens * outputs * inputs) / (ms / 1e3) });
    }
    return { weightType, points };
  }

  async attention(): Promise<{ attentionBytesPerSecond: number; attentionFlopsPerSecond: number }> {
    const [heads, kvHeads, headDim] = [16, 8, 128];
    const measure = async (sequences: number, tokensEach: number, context: number) => {
      const pagesEach = context / PAGE_TOKENS;
      const cache = [sequences * pagesEach, kvHeads, PAGE_TOKENS, headDim];
      const cacheBytes = elementCount(cache) * 4;
      const tokens = sequences * tokensEach;
      const q = this.#floats(0, [tokens, heads, headDim]);
      const ints = (index: number, shape: number[], values: number[]) => this.#ints(index, shape, values);
      const from = 2 * elementCount(q.shape);
      const range = (length: number) => Array.from({ length }, (_, i) => i);
      const rows = range(sequences).flatMap((s) => [s * tokensEach, tokensEach, context, s * pagesEach]);
      const positions = range(tokens).map((t) => context - tokensEach + (t % tokensEach));
      const tables = {
        sequences: ints(from, [sequences, 4], rows),
        pages: ints(from + 4 * sequences, [sequences * pagesEach], range(sequences * pagesEach)),
        slots: ints(from + 65536, [tokens], positions),
        positions: ints(from + 131072, [tokens], positions),
        maxContextTokens: context,
      };
      const op: Op = {
        op: 'attention',
        out: this.#floats(elementCount(q.shape), [tokens, heads, headDim]),
        q,
        keys: tensor(this.#memory, 0, 'f32', cache),
        values: tensor(this.#memory, cacheBytes, 'f32', cache),
        tables,
        scale: 0.1,
        alibiSlopes: null,
        windowTokens: 0,
        softCap: 0,
      };
      return { seconds: (await this.#medianMs(() => op)) / 1e3, bytes: 2 * cacheBytes };
    };
    const decode = await measure(8, 1, 1024);
    const tokens = 256;
    const prompt = await measure(1, tokens, tokens);
    const pairs = (tokens * (tokens + 1)) / 2;
    return {
      attentionBytesPerSecond: decode.bytes / decode.seconds,
      attentionFlopsPerSecond: (4 * pairs * heads * headDim) / prompt.seconds,
    };
  }

  /** Of a norm, a gated activation and a sum together. */
  async elementwise(): Promise<number> {
    const shape = [128, 8192];
    const size = elementCount(shape);
    const [x, y, out] = [0, 1, 2].map((i) => this.#floats(i * size, shape)) as [Tensor, Tensor, Tensor];
    const weight = this.#floats(3 * size, [8192]);
    const norm: Op = { op: 'rms_norm', out, x, weight, eps: 1e-5, weightOffset: 0 };
    const gated: Op = { op: 'gated', out, gate: x, up: y, activation: 'silu' };
    const add: Op = { op: 'add', out, a: x, b: y };
    let ms = 0;
    for (const op of [norm, gated, add]) ms += await this.#medianMs(() => op);
    return ((2 + 3 + 3) * size * 4) / (ms / 1e3);
  }

  /** Of a small operation among others. */
  launch(): Promise<number> {
    const x = this.#floats(0, [4, 4096]);
    return this.#medianMs(() => ({ op: 'add', out: this.#floats(16384, [4, 4096]), a: x, b: x }));
  }

  /** From queueing an event until JavaScript knows of it. */
  async roundTrip(): Promise<number> {
    const times: number[] = [];
    for (let run = 0; run < 4 * RUNS; run++) {
      const startMs = this.#backend.nowMs();
      await this.#device.compute.record().reached();
      times.push(this.#backend.nowMs() - startMs);
    }
    return median(times);
  }

  /**
   * Milliseconds of one operation among many that are queued at once, as in a pass: on a shared machine what interrupts
   * a pass interrupts these as well. Median of the batches, after one that does not count.
   */
  async #medianMs(next: () => Op): Promise<number> {
    const single = await this.#batchMs(next, 1);
    const count = Math.min(MOST_AT_ONCE, Math.max(1, Math.ceil(BATCH_MS / Math.max(single, 1e-3))));
    const runs = single * count > LONG_MS ? FEWEST_RUNS : RUNS;
    const times: number[] = [];
    for (let run = 0; run < runs; run++) times.push(await this.#batchMs(next, count));
    return median(times);
  }

  async #batchMs(next: () => Op, count: number): Promise<number> {
    const { compute } = this.#device;
    const start = compute.record();
    for (let i = 0; i < count; i++) compute.launch(next());
    const end = compute.record();
    await end.reached();
    return (end.timeMs - start.timeMs) / count;
  }

  #floats(firstElement: number, shape: readonly number[], dtype: DType = 'f32'): Tensor {
    return tensor(this.#scratch, firstElement * 4, dtype, shape);
  }

  #ints(firstElement: number, shape: readonly number[], values: readonly number[]): Tensor {
    const { buffer, byteOffset } = this.#scratch.bytes;
    new Int32Array(buffer, byteOffset + firstElement * 4, values.length).set(values);
    return this.#floats(firstElement, shape, 'i32');
  }
}

export interface DriveMeasurement {
  readonly bytesPerSecond: number;
  readonly latencyMs: number;
  readonly bytes: number;
  /** The page cache was bypassed. */
  readonly direct: boolean;
}

const DRIVE_BUFFERS = 4;
const DRIVE_BUFFER_BYTES = 32 * MiB;
const SMALL_BYTES = 4096;

/**
 * Streams the file as layers are streamed, until `maxMs` have passed or all of it was read, then asks for small
 * pieces one by one. Rejects with an OperatingError.
 */
export async function measureDrive(backend: Backend, path: string, maxMs: number): Promise<DriveMeasurement> {
  const file = backend.openFile(path);
  const usable = roundDown(file.sizeBytes, SMALL_BYTES);
  const pieceBytes = Math.min(DRIVE_BUFFER_BYTES, usable);
  const read = (into: HostMemory, fileOffset: number, sizeBytes: number) =>
    backend.read([{ file, fileOffset, sizeBytes, requiredBytes: sizeBytes, memoryOffset: 0 }], into);
  const startMs = backend.nowMs();
  let [nextOffset, bytes, latencies] = [0, 0, [] as number[]];
  const buffers = Array.from({ length: DRIVE_BUFFERS }, () => backend.allocateHost(pieceBytes, 'stream'));
  const beganMs = backend.nowMs();
  await Promise.all(
    buffers.map(async (buffer) => {
      while (nextOffset + pieceBytes <= usable && backend.nowMs() - startMs < maxMs) {
        const offset = nextOffset;
        nextOffset += pieceBytes;
        await read(buffer, offset, pieceBytes);
        bytes += pieceBytes;
      }
    }),
  );
  const seconds = (backend.nowMs() - beganMs) / 1e3;
  const [buffer] = buffers;
  for (let i = 0; buffer && i < 4 * RUNS; i++) {
    const offset = roundDown(((i * 0.618) % 1) * (usable - SMALL_BYTES), SMALL_BYTES);
    const span = await read(buffer, offset, SMALL_BYTES);
    latencies.push(span.endMs - span.startMs);
  }
  return { bytesPerSecond: bytes / seconds, latencyMs: median(latencies), bytes, direct: file.direct };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
