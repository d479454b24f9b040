// Do several drives yield together what each yields alone? The ring on each, on all at once, and generation with all layers on them.
//
// sudo node dist/bench/drives.js [--rates 300,300] [--rates 400,200] [--shape llama-0.85b] [--cut '{"num_hidden_layers":8}']
//   [--dir out/bench] [--runs 3]
//
// The drives are virtual ones of these rates in MB/s (bench/virtual-drives.ts), made in memory and gone afterwards.

import { parseArgs } from 'node:util';
import { formatRate, measureDrive, NativeHost, pathsOf, present } from '../offload/index.js';
import { Engine } from '../src/engine/engine.js';
import { generate } from '../src/engine/generate.js';
import { openModel } from '../src/engine/open-model.js';
import { stageStriped } from '../src/staging/striped.js';
import { dummyCheckpoint, median, percent, printResult } from './common.js';
import { VirtualDrives } from './virtual-drives.js';

const MEASURE_MS = 2500;
const PROMPT_TOKENS = 4;
/** Decoding passes that are timed; the first ones of a session are not. */
const NEW_TOKENS = 4;
/** Mounts outlast the process. */
const SIGNALS = ['SIGINT', 'SIGTERM'] as const;
const MARGIN_BYTES = 128 * 2 ** 20;

const { values } = parseArgs({
  options: {
    rates: { type: 'string', multiple: true, default: ['300,300', '400,200'] },
    shape: { type: 'string', default: 'llama-0.85b' },
    cut: { type: 'string', default: '{"num_hidden_layers":8}' },
    dir: { type: 'string', default: 'out/bench' },
    runs: { type: 'string', default: '3' },
  },
});
const cut = JSON.parse(values.cut) as Record<string, unknown>;
const folder = await dummyCheckpoint(
  values.shape,
  `${values.dir}/${[values.shape, ...Object.values(cut)].join('-')}`,
  'bfloat16',
  cut,
);
const opened = await openModel(folder);

/** What the ring reads of these files at once, each up to so long. */
async function ringRates(paths: readonly string[]): Promise<number[]> {
  const host = new NativeHost();
  const reader = {
    allocateHost: host.allocate.bind(host),
    nowMs: () => performance.now(),
    openFile: host.openFile.bind(host),
    read: host.read.bind(host),
  };
  try {
    const measured = await Promise.all(paths.map((path) => measureDrive(reader, path, MEASURE_MS)));
    return measured.map(({ bytesPerSecond }) => bytesPerSecond);
  } finally {
    await host.close();
  }
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, number) => total + number, 0);

async function measure(rates: readonly number[]) {
  const drives = new VirtualDrives(rates, opened.checkpoint.totalBytes + MARGIN_BYTES * 3);
  const stop = () => {
    drives.close();
    process.exit(130);
  };
  for (const signal of SIGNALS) process.once(signal, stop);
  try {
    const staged = await stageStriped(opened.checkpoint, drives.drives);
    // The largest part on each drive.
    const parts = drives.drives.map(({ folder: on }) =>
      present(
        pathsOf(staged.files).find((path) => path.startsWith(on)),
        'part',
      ),
    );
    drives.limit();
    const engine = await Engine.open(opened, {
      offload: 'nvme',
      dramBudgetBytes: 2 ** 30,
      workload: {
        sequences: 1,
        contextTokens: PROMPT_TOKENS + NEW_TOKENS + 1,
        promptTokens: PROMPT_TOKENS,
        output: 'tokens',
      },
      files: staged.files,
      fileStates: staged.fileStates,
    });
    const passBytes = sum(engine.plan.layers.map(({ layout }) => layout.host.sizeBytes));
    const promptTokens = Int32Array.from({ length: PROMPT_TOKENS }, (_, index) => 100 + index);
    try {
      const runs = [];
      for (let run = 0; run < Number(values.runs); run++) {
        const alone: number[] = [];
        for (const path of parts) alone.push(present((await ringRates([path]))[0], 'rate'));
        const limit = sum(alone);
        const together = sum(await ringRates(parts));
        const layers = (await engine.executor.measureReadLimit(Number.POSITIVE_INFINITY)).bytesPerSecond;
        const before = engine.backend.driveFigures();
        const startMs = engine.backend.nowMs();
        await generate(engine.executor, [{ index: 0, promptTokens }], {
          batchSize: 1,
          maxNewTokens: NEW_TOKENS,
          stopTokens: new Set(),
        });
        const elapsedMs = engine.backend.nowMs() - startMs;
        const after = engine.backend.driveFigures();
        const each = after.map(({ bytes }, i) => bytes - present(before[i], 'drive').bytes);
        const generating = (sum(each) / elapsedMs) * 1e3;
        const figures = {
          alone,
          together: together / limit,
          layers: layers / limit,
          generate: generating / limit,
        };
        runs.push(figures);
        process.stderr.write(
          `run ${run + 1}: alone ${alone.map(formatRate).join(' and ')}; together ${percent(figures.together)}, layers ` +
            `${percent(figures.layers)}, generation ${percent(figures.generate)} (${formatRate(generating)}; each drive ` +
            `${each.map((bytes) => formatRate((bytes / elapsedMs) * 1e3)).join(' and ')})\n`,
        );
      }
      return { rates, passBytes, runs };
    } finally {
      await engine.close();
    }
  } finally {
    for (const signal of SIGNALS) process.off(signal, stop);
    drives.close();
  }
}

for (const text of values.rates) {
  const rates = text.split(',').map((rate) => Number(rate) * 1e6);
  const result = await measure(rates);
  const of = (name: 'together' | 'layers' | 'generate') =>
    percent(median(result.runs.map((run) => run[name])));
  printResult(
    'drives',
    `${rates.map(formatRate).join(' and ')}: together ${of('together')} of what they yield alone, layers ${of('layers')}, ` +
      `generation ${of('generate')} (bar 95 %)`,
    result,
  );
}
