// How near does one GPU come to its link when layers stream from DRAM, and to its memory when they rest on it? Decode
// and prefill beside their limits.
//
// node dist/bench/gpu/stream.js [--shape opt-1.3b] [--dir out/bench] [--batch 8] [--prompt 32] [--tokens 8]
//   [--resident 0|auto|12] [--kv auto|dram] [--gpu_memory 8GiB] [--gpus 2] [--gather auto|peer|nccl|none] [--micro 8]
//   [--blocks 12]
//
// With `--blocks` so many blocks are read from one block's bytes (repeated.ts) instead of from a checkpoint that is written first.
// `--micro` is how many sequences a micro-batch has at most. With several GPUs every one computes such a batch, and
// layers are fetched in shares over all links, or whole. Beside the step stands what a layer's way takes when nothing is
// computed: 256 MiB in shares, and whole over every link.

import { parseArgs } from 'node:util';
import {
  CudaBackend,
  formatRate,
  type GatherWish,
  MiB,
  measureTransfer,
  parseBytes,
  present,
  type TransferTimes,
} from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { describePlacement } from '../../src/engine/placement.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { dummyCheckpoint, median, printResult } from '../common.js';
import { repeatedModel } from './repeated.js';
import { measureRates, requests } from './setting.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'opt-1.3b' },
    dir: { type: 'string', default: 'out/bench' },
    batch: { type: 'string', default: '8' },
    prompt: { type: 'string', default: '32' },
    tokens: { type: 'string', default: '8' },
    resident: { type: 'string', default: '0' },
    kv: { type: 'string', default: 'auto' },
    gpu_memory: { type: 'string' },
    gpus: { type: 'string', default: '1' },
    gather: { type: 'string', default: 'auto' },
    micro: { type: 'string' },
    blocks: { type: 'string' },
  },
});
const gather = (['auto', 'peer', 'nccl', 'none'] as const).find((wish) => wish === values.gather);
if (!gather) throw new Error(`--gather is '${values.gather}': give auto, peer, nccl or none`);
const [batch, promptTokens, newTokens, gpus] = [values.batch, values.prompt, values.tokens, values.gpus].map(
  Number,
) as [number, number, number, number];

const { linkBytesPerSecond, memoryBytesPerSecond } = await measureRates();
const devices = Array.from({ length: gpus }, (_, index) => index);
const transferTimes = gpus > 1 ? await timesOf(gather) : undefined;
const opened =
  values.blocks === undefined
    ? await openModel(await dummyCheckpoint(values.shape, `${values.dir}/${values.shape}`))
    : await repeatedModel({ shape: values.shape, blocks: Number(values.blocks) });
const engine = await Engine.open(opened, {
  device: 'cuda',
  cuda: { devices },
  gather,
  offload: 'dram',
  ...(values.gpu_memory === undefined
    ? {}
    : { deviceBudgetBytes: parseBytes(values.gpu_memory, '--gpu_memory') }),
  plan: {
    deviceResident: values.resident === 'auto' ? 'auto' : { layers: Number(values.resident) },
    kvOffload: values.kv === 'dram',
    ...(values.micro === undefined ? {} : { microBatchSequences: Number(values.micro) }),
  },
  workload: {
    sequences: batch,
    contextTokens: promptTokens + newTokens,
    promptTokens: batch * promptTokens,
    output: 'tokens',
  },
});
const { plan } = engine;
const bytesIn = (resting: boolean) =>
  plan.layers.reduce(
    (sum, { tier, layout }) => sum + ((tier === 'gpu') === resting ? layout.device.sizeBytes : 0),
    0,
  );
const [streamedBytes, residentBytes] = [bytesIn(false), bytesIn(true)];

let prefillParts: { readonly computeMs: number; readonly stallMs: number } | undefined;
const first = await passes();
engine.trace.resetSums();
const idle = performance.eventLoopUtilization();
const [prefill, ...decode] = await passes(() => {
  // At the end of the prefill: what of it the GPU computed, and what it waited for layers.
  prefillParts ??= {
    computeMs: engine.trace.summaries().find(({ lane }) => lane === 'compute')?.busyMs ?? 0,
    stallMs: engine.trace.computeStallMs,
  };
});
const { active } = performance.eventLoopUtilization(idle);
const javascriptMs = active / (1 + decode.length);
const lanes = engine.trace.summaries().map(({ lane, busyMs, bytes }) => ({ lane, busyMs, bytes }));
const kvBytes =
  lanes.reduce((sum, { lane, bytes }) => sum + (lane === 'kv dram→gpu' ? bytes : 0), 0) / decode.length;
const stallMs = engine.trace.computeStallMs;
await engine.close();
const decodeMs = median(decode);
const prefillMs = present(prefill, 'prefill');
// Each link carries its share, or all of a layer. Keys and values of the lanes are those of all GPUs.
const linkBytes = streamedBytes / (plan.transfer.kind === 'shards' ? gpus : 1) + kvBytes / gpus;
const reached = linkBytes / (decodeMs / 1e3);
const read = (streamedBytes + residentBytes) / (decodeMs / 1e3);
const percent = (part: number, whole: number) => `${((part / whole) * 100).toFixed(1)} %`;
const flops = plan.blockFlopsPerToken * batch * promptTokens;
printResult(
  `streaming ${values.shape} to ${gpus === 1 ? 'a GPU' : `${gpus} GPUs`}`,
  `${describePlacement(plan)}; decode, batch ${batch}${gpus > 1 ? ' each' : ''}: ${decodeMs.toFixed(2)} ms a step, ` +
    `link ${formatRate(reached)} of ${formatRate(linkBytesPerSecond)} (${percent(reached, linkBytesPerSecond)}), ` +
    `weights ${formatRate(read)} of ${formatRate(memoryBytesPerSecond)} (${percent(read, memoryBytesPerSecond)}); prefill ${batch}×${promptTokens}: ` +
    `${prefillMs.toFixed(0)} ms (computing ${prefillParts?.computeMs.toFixed(0)}, waiting for layers ` +
    `${prefillParts?.stallMs.toFixed(0)}), ${(flops / prefillMs / 1e9).toFixed(0)} TFLOP/s; first pass ${present(first[0], 'pass').toFixed(0)} ms; JavaScript busy ${javascriptMs.toFixed(2)} ms a pass; busy ` +
    lanes.map(({ lane, busyMs }) => `${lane} ${busyMs.toFixed(0)} ms`).join(', ') +
    (transferTimes === undefined ? '' : `; ${describeTimes(transferTimes)}`),
  {
    ...values,
    streamedBytes,
    residentBytes,
    kvBytes,
    placement: describePlacement(plan),
    transfer: plan.transfer,
    transferTimes,
    microBatchSequences: plan.microBatchSequences,
    linkBytesPerSecond,
    memoryBytesPerSecond,
    decodeMs,
    prefillMs,
    prefillParts,
    decode,
    prefillFlops: flops,
    lanes,
    stallMs,
    javascriptMs,
  },
);

/** Milliseconds of each pass of one generation: the prefill, then the decode steps. */
async function passes(onPass: () => void = () => undefined): Promise<number[]> {
  const spent: number[] = [];
  let last = performance.now();
  await generate(engine.executor, requests(batch * gpus, promptTokens, opened.model.vocabSize), {
    batchSize: batch,
    maxNewTokens: newTokens,
    stopTokens: new Set(),
    onPass: (_pass: PassProgress) => {
      const now = performance.now();
      spent.push(now - last);
      last = now;
      onPass();
    },
  });
  return spent;
}

/** What a layer's way to all GPUs takes when nothing is computed. */
async function timesOf(wish: GatherWish): Promise<TransferTimes> {
  const backend = new CudaBackend({ devices, nccl: wish === 'nccl' });
  try {
    return await measureTransfer(backend, wish === 'nccl' ? 'nccl' : 'peer', 256 * MiB);
  } finally {
    await backend.close();
  }
}

function describeTimes({ layerBytes, shardsMs, wholeMs }: TransferTimes): string {
  const took = (ms: number) => `${ms.toFixed(2)} ms (${formatRate(layerBytes / (ms / 1e3))})`;
  return `256 MiB to all GPUs in shares ${took(shardsMs)}, whole ${took(wholeMs)}`;
}
