// How near does one GPU come to its link when every layer streams from DRAM? Decode and prefill beside their limits.
//
// node dist/bench/gpu/stream.js [--shape opt-1.3b] [--dir out/bench] [--batch 8] [--prompt 32] [--tokens 8]

import { parseArgs } from 'node:util';
import { CudaBackend, formatRate, MiB, present } from '../../offload/index.js';
import { Engine, openModel } from '../../src/engine.js';
import { generate, type PassProgress } from '../../src/generate.js';
import { dummyCheckpoint, median, printResult } from '../common.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'opt-1.3b' },
    dir: { type: 'string', default: 'out/bench' },
    batch: { type: 'string', default: '8' },
    prompt: { type: 'string', default: '32' },
    tokens: { type: 'string', default: '8' },
  },
});
const [batch, promptTokens, newTokens] = [values.batch, values.prompt, values.tokens].map(Number) as [
  number,
  number,
  number,
];

const linkBytesPerSecond = await measureLink();
const folder = await dummyCheckpoint(values.shape, `${values.dir}/${values.shape}`);
const opened = await openModel(folder);
const engine = await Engine.open(opened, {
  device: 'cuda',
  offload: 'dram',
  workload: {
    sequences: batch,
    contextTokens: promptTokens + newTokens,
    promptTokens: batch * promptTokens,
    output: 'tokens',
  },
});
const { plan } = engine;
const streamedBytes = plan.layers.reduce((sum, { layout }) => sum + layout.device.sizeBytes, 0);

let prefillParts: { readonly computeMs: number; readonly stallMs: number } | undefined;
const first = await passes();
engine.trace.resetSums();
const [prefill, ...decode] = await passes(() => {
  // At the end of the prefill: what of it the GPU computed, and what it waited for layers.
  prefillParts ??= {
    computeMs: engine.trace.summaries().find(({ lane }) => lane === 'compute')?.busyMs ?? 0,
    stallMs: engine.trace.computeStallMs,
  };
});
const lanes = engine.trace.summaries().map(({ lane, busyMs, bytes }) => ({ lane, busyMs, bytes }));
const stallMs = engine.trace.computeStallMs;
await engine.close();
const decodeMs = median(decode);
const prefillMs = present(prefill, 'prefill');
const reached = streamedBytes / (decodeMs / 1e3);
const flops = plan.blockFlopsPerToken * batch * promptTokens;
printResult(
  `streaming ${values.shape} to a GPU`,
  `decode, batch ${batch}: ${decodeMs.toFixed(1)} ms a step, ${formatRate(reached)} of ${formatRate(linkBytesPerSecond)} ` +
    `(${((reached / linkBytesPerSecond) * 100).toFixed(1)} %); prefill ${batch}×${promptTokens}: ` +
    `${prefillMs.toFixed(0)} ms (computing ${prefillParts?.computeMs.toFixed(0)}, waiting for layers ` +
    `${prefillParts?.stallMs.toFixed(0)}), ${(flops / prefillMs / 1e9).toFixed(0)} TFLOP/s; first pass ${present(first[0], 'pass').toFixed(0)} ms; busy ` +
    lanes.map(({ lane, busyMs }) => `${lane} ${busyMs.toFixed(0)} ms`).join(', '),
  {
    ...values,
    streamedBytes,
    linkBytesPerSecond,
    decodeMs,
    prefillMs,
    prefillParts,
    decode,
    prefillFlops: flops,
    lanes,
    stallMs,
  },
);

/** Milliseconds of each pass of one generation: the prefill, then the decode steps. */
async function passes(onPass: () => void = () => undefined): Promise<number[]> {
  const spent: number[] = [];
  let last = performance.now();
  const requests = Array.from({ length: batch }, (_, index) => ({
    index,
    promptTokens: Int32Array.from(
      { length: promptTokens },
      (__, at) => 1000 + ((index * 131 + at * 7919) % 20000),
    ),
  }));
  await generate(engine.executor, requests, {
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

/** Page-locked host memory to the device in copies of 256 MiB, by the device's own clock. */
async function measureLink(): Promise<number> {
  const backend = new CudaBackend();
  const device = present(backend.devices[0], 'device');
  const sizeBytes = 256 * MiB;
  const host = backend.allocateHost(sizeBytes, 'control');
  const memory = device.allocate(sizeBytes);
  const rates: number[] = [];
  for (let run = 0; run < 8; run++) {
    const start = device.fetch.record();
    device.fetch.copy(memory, 0, host, 0, sizeBytes);
    const end = device.fetch.record();
    await end.reached();
    rates.push(sizeBytes / ((end.timeMs - start.timeMs) / 1e3));
  }
  await backend.close();
  return median(rates.slice(2));
}
