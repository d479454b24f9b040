// Measures what the predictor needs: the kernels on operands like a model's, and a drive through the read engine.

import { PAGE_TOKENS } from '../model/kv-cache.js';
import type { HardwareProfile, ProductRates } from '../plan/profile.js';
import type { Backend, Device, HostMemory } from '../port/backend.js';
import { DTYPE_BYTES, type DType, elementCount } from '../port/dtype.js';
import type { Memory, Op, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { MiB, roundDown } from '../units.js';
import { type ComputeLimits, detectHardware, lastCacheBytes, measureComputeLimits } from './hardware.js';

export type WeightType = ProductRates['weightType'];

/** How large operands are, so that a device is busy with them and none is in a cache when its turn comes. */
export interface BenchSizes {
  /** Weights, keys and values are taken in turn from as much memory as this. */
  readonly coldBytes: number;
  readonly scratchBytes: number;
  /** Outputs and inputs of a product. */
  readonly weightShape: readonly [number, number];
  readonly tokens: readonly number[];
  readonly heads: number;
  readonly kvHeads: number;
  /** Sequences and their lengths, whose next token attends. */
  readonly decode: readonly [number, number];
  /** Prompts and their lengths, that attend to themselves. */
  readonly prompt: readonly [number, number];
  /** Of what norms, gated activations and sums are measured with. */
  readonly rows: number;
  /** Operations are queued for that long at least; in place longer than what a scheduler gives a thread at once. */
  readonly batchMs: number;
}

const HEAD_DIM = 128;
const COLUMNS = 8192;
const CPU_SIZES: BenchSizes = {
  coldBytes: 160 * MiB,
  scratchBytes: 64 * MiB,
  // Short rows are a little slower than long ones: what starts and ends a row is paid more often.
  weightShape: [4096, 2048],
  tokens: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
  heads: 16,
  kvHeads: 8,
  decode: [8, 1024],
  prompt: [1, 256],
  rows: 128,
  batchMs: 40,
};
/** For groups with little memory: a process of 200 MiB measures with these. */
const SMALL_CPU_SIZES: BenchSizes = {
  ...CPU_SIZES,
  coldBytes: 48 * MiB,
  scratchBytes: 32 * MiB,
  weightShape: [2048, 2048],
  decode: [4, 1024],
};
const MOST_COLD_BYTES = 512 * MiB;
const GPU_SIZES: BenchSizes = {
  coldBytes: 512 * MiB,
  scratchBytes: 512 * MiB,
  weightShape: [16384, 4096],
  tokens: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192],
  heads: 32,
  kvHeads: 32,
  decode: [16, 1024],
  prompt: [16, 512],
  rows: 2048,
  batchMs: 10,
};
const TABLE_WORDS = 2 ** 16;
const FILL_BYTES = 16 * MiB;
const RUNS = 5;
const FEWEST_RUNS = 3;
const LONG_MS = 100;
const MOST_AT_ONCE = 256;
/** Hand-overs between native threads and JavaScript from one pass to the next. */
const PASS_ROUND_TRIPS = 6;

/** Cold enough that no cache holds it all, where there is memory for that; a quarter of what is available at most. */
export function cpuBenchSizes(availableBytes: number, cacheBytes: number): BenchSizes {
  const { coldBytes, scratchBytes } = CPU_SIZES;
  if (availableBytes < 2 * (coldBytes + scratchBytes)) return SMALL_CPU_SIZES;
  const wanted = Math.min(2 * cacheBytes, MOST_COLD_BYTES, availableBytes / 4);
  return { ...CPU_SIZES, coldBytes: Math.max(coldBytes, roundDown(wanted, MiB)) };
}

/**
 * Takes about a second per type of weights, and memory of the device meanwhile; the backend must be idle. On a GPU
 * activations and cache have the weights' 16-bit type, as plans have it there.
 */
export async function measureCompute(
  backend: Backend,
  device: Device,
  weightTypes: readonly WeightType[],
  threads?: number,
  sizes: BenchSizes = device.computesInPlace
    ? cpuBenchSizes(detectHardware().dramAvailableBytes, lastCacheBytes())
    : GPU_SIZES,
): Promise<HardwareProfile['compute']> {
  const cpuLimits = backend.kind === 'cuda' ? undefined : measureComputeLimits(threads);
  const half = weightTypes.find((type) => type !== 'f32');
  const bench = new Bench(backend, device, backend.kind === 'cuda' && half ? half : 'f32', sizes);
  const products: ProductRates[] = [];
  for (const weightType of weightTypes) products.push(await bench.products(weightType));
  const limits = cpuLimits ?? (await bench.limits(products));
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
  readonly #activationType: DType;
  readonly #sizes: BenchSizes;
  readonly #memory: Memory;
  readonly #scratch: Memory;
  /** Integer tables, where JavaScript writes them and where kernels read them. */
  readonly #host: HostMemory;
  readonly #tables: Memory;

  constructor(backend: Backend, device: Device, activationType: DType, sizes: BenchSizes) {
    this.#backend = backend;
    this.#device = device;
    this.#activationType = activationType;
    this.#sizes = sizes;
    this.#memory = this.#filled(sizes.coldBytes);
    this.#scratch = this.#filled(sizes.scratchBytes);
    this.#host = backend.allocateHost(TABLE_WORDS * 4, 'control');
    this.#tables = device.computesInPlace ? this.#host : device.allocate(TABLE_WORDS * 4);
  }

  /** Pages that were never written are one page of zeros, which is always in the cache. 0x3c3c is harmless in every type. */
  #filled(sizeBytes: number): Memory {
    const { computesInPlace } = this.#device;
    const host = this.#backend.allocateHost(
      computesInPlace ? sizeBytes : FILL_BYTES,
      computesInPlace ? 'resident' : 'control',
    );
    host.bytes.fill(0x3c);
    if (computesInPlace) return host;
    const memory = this.#device.allocate(sizeBytes);
    for (let at = 0; at < sizeBytes; at += FILL_BYTES) {
      this.#device.compute.copy(memory, at, host, 0, Math.min(FILL_BYTES, sizeBytes - at));
    }
    return memory;
  }

  async products(weightType: WeightType): Promise<ProductRates> {
    const { coldBytes, weightShape, tokens: all } = this.#sizes;
    const [outputs, inputs] = weightShape;
    const weightBytes = elementCount(weightShape) * DTYPE_BYTES[weightType];
    const count = Math.floor(coldBytes / weightBytes);
    // Blocks are computed in the type of their weights.
    const type = this.#activationType === 'f32' || weightType === 'f32' ? 'f32' : weightType;
    let next = 0;
    const points = [];
    for (const tokens of all) {
      const x = this.#at(0, [tokens, inputs], type);
      const out = this.#at(elementCount(x.shape) * DTYPE_BYTES[type], [tokens, outputs], type);
      if (!this.#fits(out)) break;
      const ms = await this.#medianMs(() => {
        const offset = (next++ % count) * weightBytes;
        const weight = tensor(this.#memory, offset, weightType, weightShape);
        const base = { bias: null, inputMajor: false, activation: 'none', accumulate: false } as const;
        return { op: 'linear', out, x, weight, ...base };
      });
      points.push({ tokens, flopsPerSecond: (2 * tokens * outputs * inputs) / (ms / 1e3) });
    }
    return { weightType, points };
  }

  async attention(): Promise<{ attentionBytesPerSecond: number; attentionFlopsPerSecond: number }> {
    const { heads, kvHeads } = this.#sizes;
    const type = this.#activationType;
    const measure = async (sequences: number, tokensEach: number, context: number) => {
      const pagesEach = context / PAGE_TOKENS;
      const cache = [sequences * pagesEach, kvHeads, PAGE_TOKENS, HEAD_DIM];
      const cacheBytes = elementCount(cache) * DTYPE_BYTES[type];
      const tokens = sequences * tokensEach;
      const q = this.#at(0, [tokens, heads, HEAD_DIM], type);
      const range = (length: number) => Array.from({ length }, (_, i) => i);
      const rows = range(sequences).flatMap((s) => [s * tokensEach, tokensEach, context, s * pagesEach]);
      const positions = range(tokens).map((t) => context - tokensEach + (t % tokensEach));
      const [table, pages, slots, places] = this.#ints(
        { shape: [sequences, 4], values: rows },
        { shape: [sequences * pagesEach], values: range(sequences * pagesEach) },
        { shape: [tokens], values: positions },
        { shape: [tokens], values: positions },
      ) as [Tensor, Tensor, Tensor, Tensor];
      const op: Op = {
        op: 'attention',
        out: this.#at(elementCount(q.shape) * DTYPE_BYTES[type], [tokens, heads, HEAD_DIM], type),
        q,
        keys: tensor(this.#memory, 0, type, cache),
        values: tensor(this.#memory, cacheBytes, type, cache),
        tables: { sequences: table, pages, slots, positions: places, maxContextTokens: context },
        scale: 0.1,
        alibiSlopes: null,
        windowTokens: 0,
        softCap: 0,
      };
      return { seconds: (await this.#medianMs(() => op)) / 1e3, bytes: 2 * cacheBytes };
    };
    const [sequences, context] = this.#sizes.decode;
    const decode = await measure(sequences, 1, context);
    const [prompts, tokens] = this.#sizes.prompt;
    const prompt = await measure(prompts, tokens, tokens);
    const pairs = (prompts * tokens * (tokens + 1)) / 2;
    return {
      attentionBytesPerSecond: decode.bytes / decode.seconds,
      attentionFlopsPerSecond: (4 * pairs * heads * HEAD_DIM) / prompt.seconds,
    };
  }

  /** Of a device with memory of its own: a copy within it reads and writes; arithmetic as the best product has it. */
  async limits(products: readonly ProductRates[]): Promise<ComputeLimits> {
    const bytes = Math.min(this.#sizes.coldBytes, this.#sizes.scratchBytes);
    const seconds: number[] = [];
    for (let run = 0; run <= RUNS; run++) {
      const { compute } = this.#device;
      const start = compute.record();
      compute.copy(this.#scratch, 0, this.#memory, 0, bytes);
      const end = compute.record();
      await end.reached();
      if (run > 0) seconds.push((end.timeMs - start.timeMs) / 1e3);
    }
    const rates = products.flatMap(({ points }) => points.map(({ flopsPerSecond }) => flopsPerSecond));
    return { memoryBytesPerSecond: (2 * bytes) / median(seconds), flopsPerSecond: Math.max(...rates) };
  }

  /** Of a norm, a gated activation and a sum together. */
  async elementwise(): Promise<number> {
    const shape = [this.#sizes.rows, COLUMNS];
    const type = this.#activationType;
    const [floatBytes, ownBytes] = [4, DTYPE_BYTES[type]].map((each) => elementCount(shape) * each) as [
      number,
      number,
    ];
    const residual = this.#at(0, shape, 'f32');
    const [gate, up, out] = [0, 1, 2].map((i) => this.#at(floatBytes + i * ownBytes, shape, type)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const weight = this.#at(floatBytes + 3 * ownBytes, [COLUMNS], 'f32');
    const norm: Op = { op: 'rms_norm', out, x: residual, weight, eps: 1e-5, weightOffset: 0 };
    const gated: Op = { op: 'gated', out, gate, up, activation: 'silu' };
    const sum = this.#at(weight.offsetBytes + COLUMNS * 4, shape, 'f32');
    const add: Op = { op: 'add', out: sum, a: residual, b: residual };
    let ms = 0;
    for (const op of [norm, gated, add]) ms += await this.#medianMs(() => op);
    return (floatBytes + ownBytes + 3 * ownBytes + 3 * floatBytes) / (ms / 1e3);
  }

  /** Of a small operation among others. */
  launch(): Promise<number> {
    const x = this.#at(0, [4, 4096], 'f32');
    return this.#medianMs(() => ({ op: 'add', out: this.#at(65536, [4, 4096], 'f32'), a: x, b: x }));
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
    const count = Math.min(
      MOST_AT_ONCE,
      Math.max(1, Math.ceil(this.#sizes.batchMs / Math.max(single, 1e-3))),
    );
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

  #at(offsetBytes: number, shape: readonly number[], dtype: DType): Tensor {
    return tensor(this.#scratch, offsetBytes, dtype, shape);
  }

  #fits({ offsetBytes, shape, dtype }: Tensor): boolean {
    return offsetBytes + elementCount(shape) * DTYPE_BYTES[dtype] <= this.#sizes.scratchBytes;
  }

  /** Tables of one operation; those of the last one are no longer read. */
  #ints(...tables: { shape: readonly number[]; values: readonly number[] }[]): Tensor[] {
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
      this.#device.compute.copy(this.#tables, 0, this.#host, 0, next * 4);
    }
    return placed;
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
  const affordable = roundDown(detectHardware().dramAvailableBytes / (4 * DRIVE_BUFFERS), MiB);
  const pieceBytes = Math.min(DRIVE_BUFFER_BYTES, Math.max(MiB, affordable), usable);
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
