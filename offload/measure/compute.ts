// Measures the rates that predictions need: kernels on operands like a model's.

import { PAGE_TOKENS } from '../model/kv-cache.js';
import type { HardwareProfile, ProductRates } from '../plan/profile.js';
import type { Backend, Device } from '../port/backend.js';
import { reached } from '../port/device-failure.js';
import { DTYPE_BYTES, type DType, elementCount } from '../port/dtype.js';
import type { Op, Tensor } from '../port/ops.js';
import { tensor } from '../port/tensor.js';
import { denseWeight } from '../port/weights.js';
import { type BenchSizes, cpuBenchSizes, GPU_SIZES } from './bench-sizes.js';
import { type ComputeLimits, detectHardware, lastCacheBytes, measureComputeLimits } from './hardware.js';
import { KernelBench, RUNS } from './kernel-bench.js';
import { median } from './median.js';

export type WeightType = ProductRates['weightType'];

const HEAD_DIM = 128;
const COLUMNS = 8192;
/** Hand-overs between native threads and JavaScript from one pass to the next. */
const PASS_ROUND_TRIPS = 6;

export interface ComputeTrial {
  readonly backend: Backend;
  readonly device: Device;
  readonly weightTypes: readonly WeightType[];
  /** Threads that were asked for; default one per processor. */
  readonly threads?: number | undefined;
  /** Default what fits the device and the memory that is available. */
  readonly sizes?: BenchSizes;
}

/**
 * Takes about a second per type of weights, and memory of the device meanwhile; the backend must be idle. On a GPU
 * activations and cache have the weights' 16-bit type, as plans have it there.
 */
export async function measureCompute(trial: ComputeTrial): Promise<HardwareProfile['compute']> {
  const { backend, device, weightTypes, threads } = trial;
  const cpuLimits = backend.kind === 'cuda' ? undefined : measureComputeLimits(threads);
  const half = weightTypes.find((type) => type !== 'f32');
  const activationType = backend.kind === 'cuda' && half ? half : 'f32';
  const bench = new KernelBench(backend, device, trial.sizes ?? sizesFor(device));
  const products: ProductRates[] = [];
  for (const weightType of weightTypes) products.push(await productRates(bench, weightType, activationType));
  const limits = cpuLimits ?? (await limitsOf(bench, products));
  return {
    memoryBytesPerSecond: limits.memoryBytesPerSecond,
    peakFlopsPerSecond: limits.flopsPerSecond,
    products,
    ...(await attentionRates(bench, activationType)),
    elementwiseBytesPerSecond: await elementwiseRate(bench, activationType),
    launchMs: await launchMs(bench),
    passMs: PASS_ROUND_TRIPS * (await roundTripMs(backend, device)),
  };
}

function sizesFor({ computesInPlace }: Device): BenchSizes {
  return computesInPlace ? cpuBenchSizes(detectHardware().dramAvailableBytes, lastCacheBytes()) : GPU_SIZES;
}

async function productRates(
  bench: KernelBench,
  weightType: WeightType,
  activationType: DType,
): Promise<ProductRates> {
  const { coldBytes, weightShape, tokens: all } = bench.sizes;
  const [outputs, inputs] = weightShape;
  const weightBytes = elementCount(weightShape) * DTYPE_BYTES[weightType];
  const count = Math.floor(coldBytes / weightBytes);
  // Blocks are computed in the type of their weights.
  const type = activationType === 'f32' || weightType === 'f32' ? 'f32' : weightType;
  let next = 0;
  const points = [];
  for (const tokens of all) {
    const x = bench.at(0, [tokens, inputs], type);
    const out = bench.at(elementCount(x.shape) * DTYPE_BYTES[type], [tokens, outputs], type);
    if (!bench.fits(out)) break;
    const ms = await bench.medianMs(() => {
      const offset = (next++ % count) * weightBytes;
      const weight = denseWeight(tensor(bench.cold, offset, weightType, weightShape));
      const base = { bias: null, activation: 'none', accumulate: false } as const;
      return { op: 'linear', out, x, weight, ...base };
    });
    points.push({ tokens, flopsPerSecond: (2 * tokens * outputs * inputs) / (ms / 1e3) });
  }
  return { weightType, points };
}

async function attentionRates(
  bench: KernelBench,
  type: DType,
): Promise<{ attentionBytesPerSecond: number; attentionFlopsPerSecond: number }> {
  const { heads, kvHeads } = bench.sizes;
  const measure = async (sequences: number, tokensEach: number, context: number) => {
    const pagesEach = context / PAGE_TOKENS;
    const cache = [sequences * pagesEach, kvHeads, PAGE_TOKENS, HEAD_DIM];
    const cacheBytes = elementCount(cache) * DTYPE_BYTES[type];
    const tokens = sequences * tokensEach;
    const q = bench.at(0, [tokens, heads, HEAD_DIM], type);
    const range = (length: number) => Array.from({ length }, (_, i) => i);
    const rows = range(sequences).flatMap((s) => [s * tokensEach, tokensEach, context, s * pagesEach]);
    const positions = range(tokens).map((t) => context - tokensEach + (t % tokensEach));
    const [table, pages, slots, places] = bench.ints(
      { shape: [sequences, 4], values: rows },
      { shape: [sequences * pagesEach], values: range(sequences * pagesEach) },
      { shape: [tokens], values: positions },
      { shape: [tokens], values: positions },
    ) as [Tensor, Tensor, Tensor, Tensor];
    const op: Op = {
      op: 'attention',
      out: bench.at(elementCount(q.shape) * DTYPE_BYTES[type], [tokens, heads, HEAD_DIM], type),
      q,
      keys: tensor(bench.cold, 0, type, cache),
      values: tensor(bench.cold, cacheBytes, type, cache),
      keyScales: null,
      valueScales: null,
      tables: { sequences: table, pages, slots, positions: places, maxContextTokens: context },
      score: { scale: 0.1 },
    };
    return { seconds: (await bench.medianMs(() => op)) / 1e3, bytes: 2 * cacheBytes };
  };
  const [sequences, context] = bench.sizes.decode;
  const decode = await measure(sequences, 1, context);
  const [prompts, tokens] = bench.sizes.prompt;
  const prompt = await measure(prompts, tokens, tokens);
  const pairs = (prompts * tokens * (tokens + 1)) / 2;
  return {
    attentionBytesPerSecond: decode.bytes / decode.seconds,
    attentionFlopsPerSecond: (4 * pairs * heads * HEAD_DIM) / prompt.seconds,
  };
}

/** A device with memory of its own: a copy within it reads and writes; arithmetic is as the best product has it. */
async function limitsOf(bench: KernelBench, products: readonly ProductRates[]): Promise<ComputeLimits> {
  const bytes = Math.min(bench.sizes.coldBytes, bench.sizes.scratchBytes);
  const seconds: number[] = [];
  for (let run = 0; run <= RUNS; run++) {
    const { compute } = bench.device;
    const start = compute.record();
    compute.copy(bench.scratch, 0, bench.cold, 0, bytes);
    const end = compute.record();
    await reached(end);
    if (run > 0) seconds.push((end.timeMs - start.timeMs) / 1e3);
  }
  const rates = products.flatMap(({ points }) => points.map(({ flopsPerSecond }) => flopsPerSecond));
  return { memoryBytesPerSecond: (2 * bytes) / median(seconds), flopsPerSecond: Math.max(...rates) };
}

/** Bytes per second of a norm, a gated activation and a sum together. */
async function elementwiseRate(bench: KernelBench, type: DType): Promise<number> {
  const shape = [bench.sizes.rows, COLUMNS];
  const [floatBytes, ownBytes] = [4, DTYPE_BYTES[type]].map((each) => elementCount(shape) * each) as [
    number,
    number,
  ];
  const residual = bench.at(0, shape, 'f32');
  const [gate, up, out] = [0, 1, 2].map((i) => bench.at(floatBytes + i * ownBytes, shape, type)) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  const weight = bench.at(floatBytes + 3 * ownBytes, [COLUMNS], 'f32');
  const norm: Op = { op: 'rms_norm', out, x: residual, weight, eps: 1e-5, weightOffset: 0 };
  const gated: Op = { op: 'gated', out, gate, up, activation: 'silu', limit: 0, limitAfter: false };
  const sum = bench.at(weight.offsetBytes + COLUMNS * 4, shape, 'f32');
  const add: Op = { op: 'add', out: sum, a: residual, b: residual };
  let ms = 0;
  for (const op of [norm, gated, add]) ms += await bench.medianMs(() => op);
  return (floatBytes + ownBytes + 3 * ownBytes + 3 * floatBytes) / (ms / 1e3);
}

/** Milliseconds of a small operation among others. */
function launchMs(bench: KernelBench): Promise<number> {
  const x = bench.at(0, [4, 4096], 'f32');
  return bench.medianMs(() => ({ op: 'add', out: bench.at(65536, [4, 4096], 'f32'), a: x, b: x }));
}

/** From queueing an event until JavaScript knows of it. */
async function roundTripMs(backend: Backend, device: Device): Promise<number> {
  const times: number[] = [];
  for (let run = 0; run < 4 * RUNS; run++) {
    const startMs = backend.nowMs();
    await reached(device.compute.record());
    times.push(backend.nowMs() - startMs);
  }
  return median(times);
}
