// Does the plan's predicted step time hold? Decode from DRAM, decode from the drive, and a batch of prompts, each
// predicted from rates that are measured right before and after it.
//
// node dist/bench/plan-accuracy.js [--dir out/bench] [--runs 5] [--cases dram,drive,batch]

import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  type HardwareProfile,
  MiB,
  type MicroBatchShape,
  type Offload,
  type Pass,
  pagesFor,
  predictPass,
  present,
} from '../offload/index.js';
import { measureMachine } from '../src/doctor/machine.js';
import { Engine } from '../src/engine/engine.js';
import { openModel } from '../src/engine/open-model.js';
import { fillPass, packPass } from '../src/engine/packing.js';
import { PageCache } from '../src/engine/page-cache.js';
import { LateFeeds } from '../test/helpers/late-feeds.js';
import { dummyCheckpoint, median, printResult } from './common.js';

interface Case {
  readonly name: string;
  readonly shape: string;
  readonly offload: Offload;
  readonly dramBudgetBytes?: number;
  readonly sequences: number;
  /** Tokens that each sequence brings to a pass, and positions before them. */
  readonly tokens: number;
  readonly startPosition: number;
  /** Timed together: about as long as the rates take to measure. */
  readonly passes: number;
}

const CASES: Readonly<Record<string, Case>> = {
  dram: {
    name: 'decode from DRAM',
    shape: 'llama-0.85b',
    offload: 'dram',
    sequences: 1,
    tokens: 1,
    startPosition: 64,
    passes: 16,
  },
  drive: {
    name: 'decode from the drive',
    shape: 'llama-4b',
    offload: 'nvme',
    dramBudgetBytes: 1536 * MiB,
    sequences: 1,
    tokens: 1,
    startPosition: 64,
    passes: 1,
  },
  batch: {
    name: 'decode, batch 32',
    shape: 'llama-0.85b',
    offload: 'dram',
    sequences: 32,
    tokens: 1,
    startPosition: 64,
    passes: 3,
  },
  prefill: {
    name: 'prefill of 256',
    shape: 'llama-0.85b',
    offload: 'dram',
    sequences: 1,
    tokens: 256,
    startPosition: 0,
    passes: 1,
  },
};

const { values } = parseArgs({
  options: {
    dir: { type: 'string', default: 'out/bench' },
    runs: { type: 'string', default: '5' },
    cases: { type: 'string', default: Object.keys(CASES).join(',') },
  },
});
const runs = Number(values.runs);

for (const key of values.cases.split(',')) {
  const one = present(CASES[key], `case ${key}`);
  const pairs = await runCase(one);
  const error = median(pairs.map(({ predictedMs, measuredMs }) => predictedMs / measuredMs - 1));
  const [predictedMs, measuredMs] = [
    median(pairs.map((pair) => pair.predictedMs)),
    median(pairs.map((pair) => pair.measuredMs)),
  ];
  printResult(
    `plan accuracy, ${one.name}`,
    `${one.shape}: predicted ${predictedMs.toFixed(1)} ms, measured ${measuredMs.toFixed(1)} ms, ` +
      `off by ${(error * 100).toFixed(1)} % (medians of ${pairs.length} pairs; bar 15 %)`,
    { case: key, ...one, predictedMs, measuredMs, error, pairs },
  );
}

interface Pair {
  readonly predictedMs: number;
  readonly measuredMs: number;
}

/** Rates before each run are averaged with those after it, since a shared machine changes meanwhile. */
async function runCase(one: Case): Promise<Pair[]> {
  const opened = await openModel(await dummyCheckpoint(one.shape, join(values.dir, one.shape)));
  const { sequences, tokens, startPosition } = one;
  const contextTokens = startPosition + tokens;
  const engine = await Engine.open(opened, {
    offload: one.offload,
    ...(one.dramBudgetBytes === undefined ? {} : { dramBudgetBytes: one.dramBudgetBytes }),
    workload: { sequences, contextTokens, promptTokens: sequences * tokens, output: 'tokens' },
  });
  try {
    const microBatches = pack(engine, one);
    const pass: Pass = { perDevice: [microBatches] };
    const shapes = microBatches.map(
      ({ slices, outputs }): MicroBatchShape => ({
        slices: slices.map((slice) => ({ tokens: slice.tokens.length, startPosition: slice.startPosition })),
        outputs: outputs.length,
      }),
    );
    const predict = (machine: HardwareProfile) =>
      present(predictPass(opened.model, engine.plan, machine, shapes), 'a prediction').totalMs;
    await timePasses(engine, pass, 1); // loads what rests in DRAM
    const pairs: Pair[] = [];
    let before = predict(await describe(engine));
    for (let run = 0; run < runs; run++) {
      const measuredMs = await timePasses(engine, pass, one.passes);
      const after = predict(await describe(engine));
      pairs.push({ predictedMs: (before + after) / 2, measuredMs });
      process.stderr.write(
        `${one.name} ${run + 1}: predicted ${((before + after) / 2).toFixed(1)} ms, measured ${measuredMs.toFixed(1)} ms\n`,
      );
      before = after;
    }
    return pairs;
  } finally {
    await engine.close();
  }
}

function pack(engine: Engine, { sequences, tokens, startPosition }: Case) {
  const { plan } = engine;
  const pages = new PageCache(plan.kvPages, plan.pageTokens);
  const feeds = Array.from({ length: sequences }, (_, sequence) => ({
    sequence,
    tokens: Int32Array.from({ length: tokens }, (_, index) => 100 + ((sequence * 37 + index) % 1000)),
    start: startPosition,
    pages: Array.from(
      { length: pagesFor(startPosition + tokens, plan.pageTokens) },
      () => pages.take().number,
    ),
  }));
  const work = fillPass(feeds, { ...plan, passTokens: Number.POSITIVE_INFINITY });
  return new LateFeeds(plan).place(
    packPass(work, plan).microBatches,
    work.map(({ sequence }) => sequence),
  );
}

/** Mean milliseconds of `count` passes after one that fills the windows. */
async function timePasses(engine: Engine, pass: Pass, count: number): Promise<number> {
  engine.executor.begin(count + 2);
  try {
    await engine.executor.run(pass);
    const startMs = engine.backend.nowMs();
    for (let i = 0; i < count; i++) await engine.executor.run(pass);
    return (engine.backend.nowMs() - startMs) / count;
  } finally {
    await engine.executor.end();
  }
}

/** This machine as it is now; the drive through the engine's own buffers. */
async function describe(engine: Engine): Promise<HardwareProfile> {
  const machine = await measureMachine({ weightTypes: ['bf16'] });
  if (engine.plan.hostBuffers.count === 0) return machine;
  const { bytesPerSecond } = await engine.executor.measureReadLimit(3000);
  return { ...machine, drive: { bytesPerSecond, latencyMs: 0.1 } };
}
