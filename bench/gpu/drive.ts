// How much of the drive reaches a GPU, and how long from start to first token? Layers stream from the drive beside the
// same ring reading alone; then a new process fills the DRAM tier in its first pass.
//
// node dist/bench/gpu/drive.js [--shape opt-6.7b] [--dir out/bench] [--runs 3]

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { formatBytes, formatRate, MiB } from '../../offload/index.js';
import { Engine, openModel } from '../../src/engine.js';
import { generate } from '../../src/generate.js';
import { dummyCheckpoint, median, printResult, readArguments } from '../common.js';

const BATCH = 8;
const PROMPT = Int32Array.from({ length: 32 }, (_, index) => 100 + index);

const { shape, folder, runs } = readArguments({ shape: 'opt-6.7b', runs: 3 });
await dummyCheckpoint(shape, folder);
const opened = await openModel(folder);
const engine = await Engine.open(opened, {
  device: 'cuda',
  offload: 'nvme',
  dramBudgetBytes: 8192 * MiB,
  workload: {
    sequences: BATCH,
    contextTokens: PROMPT.length + 1,
    promptTokens: BATCH * PROMPT.length,
    output: 'tokens',
  },
});
const passBytes = engine.plan.layers.reduce((sum, { layout }) => sum + layout.host.sizeBytes, 0);
const alone = async () => (await engine.executor.measureReadLimit(Number.POSITIVE_INFINITY)).bytesPerSecond;
await streaming(); // touches and pins the buffers
const pairs: { readonly streaming: number; readonly alone: number }[] = [];
for (let run = 0; run < runs; run++) {
  const before = run % 2 === 0 ? await alone() : undefined;
  const rate = await streaming();
  pairs.push({ streaming: rate, alone: before ?? (await alone()) });
}
await engine.close();
const ratio = median(pairs.map((pair) => pair.streaming / pair.alone));
const driveRate = median(pairs.map((pair) => pair.alone));
printResult(
  'drive to GPU',
  `${shape}: ${formatRate(median(pairs.map((pair) => pair.streaming)))} while generating, ${formatRate(driveRate)} ` +
    `alone: ${(ratio * 100).toFixed(1)} % (median of ${runs} pairs)`,
  { shape, passBytes, ratio, pairs },
);

const seconds: number[] = [];
for (let run = 0; run < runs; run++) seconds.push(await secondsToFirstToken());
const { totalBytes } = opened.checkpoint;
const limit = totalBytes / driveRate;
printResult(
  'start to first token',
  `${shape}: ${median(seconds).toFixed(2)} s from the start of the process to its first output after one token; reading ` +
    `${formatBytes(totalBytes)} takes ${limit.toFixed(2)} s: ${(median(seconds) / limit).toFixed(2)} times that`,
  { shape, totalBytes, driveRate, seconds, ratio: median(seconds) / limit },
);

/** Of a new process, which prints when it knows the token. */
async function secondsToFirstToken(): Promise<number> {
  const startMs = performance.now();
  const words = ['--name', folder, '--device', 'cuda', '--cpu_offload', '--max_new_tokens', '1'];
  const child = spawn(process.execPath, ['dist/src/main.js', ...words], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'close');
  await Promise.race([once(child.stdout, 'data'), ended]);
  const spentMs = performance.now() - startMs;
  child.stdout.resume();
  const [status] = (await ended) as [number | null];
  if (status !== 0) throw new Error(`the run for the first token ended with status ${status}`);
  return spentMs / 1e3;
}

/** Bytes per second of one pass over all layers. */
async function streaming(): Promise<number> {
  const requests = Array.from({ length: BATCH }, (_, index) => ({ index, promptTokens: PROMPT }));
  const startMs = performance.now();
  await generate(engine.executor, requests, { batchSize: BATCH, maxNewTokens: 1, stopTokens: new Set() });
  return (passBytes / (performance.now() - startMs)) * 1e3;
}
