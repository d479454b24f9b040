// How much of the drive does generation use? Decode with all layers on the drive against the same ring reading alone.
//
// node dist/bench/disk-tier.js [--shape llama-4b] [--type bfloat16] [--cut '{"num_hidden_layers":4}'] [--dir out/bench] [--runs 24]
//
// Rates of a shared drive drift by more than what is to be shown, so there are many short pairs, their order alternates,
// and the kernel's own count of reads in flight says how much of any difference is ours.

import { readFileSync, statSync } from 'node:fs';
import { cpus } from 'node:os';
import { formatRate, MiB } from '../offload/index.js';
import { Engine } from '../src/engine/engine.js';
import { generate } from '../src/engine/generate.js';
import { openModel } from '../src/engine/open-model.js';
import { dummyCheckpoint, median, printResult, readArguments } from './common.js';

const NEW_TOKENS = 1;
const PROMPT_TOKENS = 8;

const { shape, type, cut, folder, runs } = readArguments({ shape: 'llama-4b', runs: 24 });
const opened = await openModel(await dummyCheckpoint(shape, folder, type, cut));
const engine = await Engine.open(opened, {
  offload: 'nvme',
  // A core is left to the drive's completions, which would otherwise wait for compute.
  cpu: { threads: Math.max(1, cpus().length - 1) },
  dramBudgetBytes: 1536 * MiB,
  workload: {
    sequences: 1,
    contextTokens: PROMPT_TOKENS + NEW_TOKENS,
    promptTokens: PROMPT_TOKENS,
    output: 'tokens',
  },
});
const promptTokens = Int32Array.from({ length: PROMPT_TOKENS }, (_, index) => 100 + index);
const generateOnce = () =>
  generate(engine.executor, [{ index: 0, promptTokens }], {
    batchSize: 1,
    maxNewTokens: NEW_TOKENS,
    stopTokens: new Set(),
  });

const passBytes = engine.plan.layers.reduce((sum, { layout }) => sum + layout.host.sizeBytes, 0);

/** One run over all streamed layers. */
interface Run {
  readonly bytesPerSecond: number;
  /** Mean number of requests that the drive had to work on; NaN where the kernel keeps no count for the file system. */
  readonly readsInFlight: number;
}

/** Milliseconds that reads have spent at the drive, summed over all that were there together. */
function readMilliseconds(): number {
  const { dev } = statSync(folder);
  const [major, minor] = [(dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00)];
  const line = readFileSync('/proc/diskstats', 'utf8')
    .split('\n')
    .map((text) => text.trim().split(/\s+/))
    .find((fields) => Number(fields[0]) === major && Number(fields[1]) === minor);
  return Number(line?.[6] ?? Number.NaN);
}

async function measured(run: () => Promise<unknown>): Promise<Run> {
  const startReadMs = readMilliseconds();
  const startMs = engine.backend.nowMs();
  await run();
  const elapsedMs = engine.backend.nowMs() - startMs;
  return {
    bytesPerSecond: (passBytes / elapsedMs) * 1e3,
    readsInFlight: (readMilliseconds() - startReadMs) / elapsedMs,
  };
}

const alone = () => measured(() => engine.executor.measureReadLimit(Number.POSITIVE_INFINITY));
const generating = () => measured(generateOnce);
await generating();
const pairs: { generating: Run; alone: Run; ratio: number }[] = [];
for (let run = 0; run < runs; run++) {
  const first = run % 2 === 0 ? await alone() : await generating();
  const second = run % 2 === 0 ? await generating() : await alone();
  const pair = run % 2 === 0 ? { alone: first, generating: second } : { generating: first, alone: second };
  const ratio = pair.generating.bytesPerSecond / pair.alone.bytesPerSecond;
  pairs.push({ ...pair, ratio });
  process.stderr.write(
    `pair ${run + 1}: ${formatRate(pair.generating.bytesPerSecond)} while generating, ` +
      `${formatRate(pair.alone.bytesPerSecond)} alone, ${(ratio * 100).toFixed(1)} %; reads in flight ` +
      `${pair.generating.readsInFlight.toFixed(1)} and ${pair.alone.readsInFlight.toFixed(1)}\n`,
  );
}
await engine.close();
const ratio = median(pairs.map((pair) => pair.ratio));
const inFlight = median(pairs.map((pair) => pair.generating.readsInFlight / pair.alone.readsInFlight));
printResult(
  'disk tier',
  `generation reads at ${(ratio * 100).toFixed(1)} % of the ring alone (median of ${runs} pairs); ` +
    `reads in flight ${(inFlight * 100).toFixed(1)} % of those alone`,
  { shape, passBytes, ratio, inFlight, pairs },
);
