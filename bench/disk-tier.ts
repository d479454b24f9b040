// How much of the drive does generation use? Decode with all layers on the drive against the same ring reading alone.
//
// node dist/bench/disk-tier.js [--shape llama-4b] [--dir out/bench] [--runs 5]

import { cpus } from 'node:os';
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
interface Pair {
  readonly streaming: number;
  readonly alone: number;
  readonly ratio: number;
  readonly computeShare: number;
  /** Time with a read in flight: what is missing to one is the pipeline's fault, the rest is the drive's mood. */
  readonly driveShare: number;
}

const alone = async () => (await engine.executor.measureReadLimit(Number.POSITIVE_INFINITY)).bytesPerSecond;
const pairs: Pair[] = [];
for (let run = 0; run < runs; run++) {
  // Either comes first in turn, since the rate of a shared drive drifts.
  const before = run % 2 === 1 ? await alone() : 0;
  engine.trace.resetSums();
  const startMs = engine.backend.nowMs();
  await generateOnce();
  const elapsedMs = engine.backend.nowMs() - startMs;
  const busy = (name: string) =>
    (engine.trace.summaries().find(({ lane }) => lane === name)?.busyMs ?? 0) / elapsedMs;
  const [computeShare, driveShare] = [busy('compute'), busy('nvme→dram')];
  const streaming = ((passBytes * NEW_TOKENS) / elapsedMs) * 1e3;
  const limit = before || (await alone());
  pairs.push({ streaming, alone: limit, ratio: streaming / limit, computeShare, driveShare });
  process.stderr.write(
    `run ${run + 1}: ${formatRate(streaming)} while generating, ${formatRate(limit)} alone, ` +
      `${((streaming / limit) * 100).toFixed(1)} %; drive busy ${(driveShare * 100).toFixed(1)} %, ` +
      `compute busy ${(computeShare * 100).toFixed(0)} %\n`,
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
