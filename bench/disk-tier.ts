// How much of the drive does generation use? Decode with all layers on the drive against the same ring reading alone.
//
// node dist/bench/disk-tier.js [--shape llama-4b] [--dir out/bench] [--runs 5]

import { formatRate, MiB } from '../offload/index.js';
import { Engine, openModel } from '../src/engine.js';
import { generate } from '../src/generate.js';
import { dummyCheckpoint, median, printResult, readArguments } from './common.js';

const NEW_TOKENS = 2;
const PROMPT_TOKENS = 8;

const { shape, folder, runs } = readArguments({ shape: 'llama-4b', runs: 5 });
const opened = await openModel(await dummyCheckpoint(shape, folder));
const engine = await Engine.open(opened, {
  offload: 'nvme',
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
const pairs: { streaming: number; alone: number; ratio: number; computeShare: number }[] = [];
for (let run = 0; run < runs; run++) {
  engine.trace.resetSums();
  const startMs = engine.backend.nowMs();
  await generateOnce();
  const elapsedMs = engine.backend.nowMs() - startMs;
  const streaming = ((passBytes * NEW_TOKENS) / elapsedMs) * 1e3;
  const { bytesPerSecond: alone } = await engine.executor.measureReadLimit(Number.POSITIVE_INFINITY);
  const busyMs = engine.trace.summaries().find(({ lane }) => lane === 'compute')?.busyMs ?? 0;
  pairs.push({ streaming, alone, ratio: streaming / alone, computeShare: busyMs / elapsedMs });
  process.stderr.write(
    `run ${run + 1}: ${formatRate(streaming)} while generating, ${formatRate(alone)} alone, ` +
      `${((streaming / alone) * 100).toFixed(1)} %, compute busy ${((busyMs / elapsedMs) * 100).toFixed(0)} %\n`,
  );
}
await engine.close();
const ratio = median(pairs.map((pair) => pair.ratio));
printResult(
  'disk tier',
  `generation reads at ${(ratio * 100).toFixed(1)} % of the ring alone (median of ${runs} pairs)`,
  {
    shape,
    passBytes,
    ratio,
    pairs,
  },
);
