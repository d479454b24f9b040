// How much of the drive reaches a GPU, and how long from start to first token? Layers stream from the drive beside the
// same ring reading alone before and after; then new processes fill the DRAM tier in their first pass, each beside the
// ring as well.
//
// node dist/bench/gpu/drive.js [--shape opt-6.7b] [--type bfloat16] [--cut '{"num_hidden_layers":4}'] [--dir out/bench] [--runs 5]

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { formatBytes, formatRate, MiB } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { dummyCheckpoint, median, percent, printResult, readArguments } from '../common.js';
import { secondsToFirstToken } from '../first-token.js';

const BATCH = 8;
const PROMPT = Int32Array.from({ length: 32 }, (_, index) => 100 + index);

/** What the process that holds the engine is asked: bytes per second of one pass over all layers, or of the ring alone. */
type Question = 'streaming' | 'alone';

const { shape, type, cut, folder, runs } = readArguments({ shape: 'opt-6.7b', runs: 5 });
if (process.send) await answer();
else await measure();

async function measure(): Promise<void> {
  await dummyCheckpoint(shape, folder, type, cut);
  const { totalBytes } = (await openModel(folder)).checkpoint;
  // A process of its own: one that holds gigabytes takes a second to start others.
  const ring = fork(fileURLToPath(import.meta.url), process.argv.slice(2));
  const ask = asker(ring);
  await ask('streaming'); // touches and pins the buffers
  const pairs = (await beside(ask, () => ask('streaming'))).map(({ value: streaming, alone }) => ({
    streaming,
    alone,
  }));
  const ratio = median(pairs.map((pair) => pair.streaming / pair.alone));
  printResult(
    'drive to GPU',
    `${shape} in ${type}: ${formatRate(median(pairs.map((pair) => pair.streaming)))} while generating, ` +
      `${formatRate(median(pairs.map((pair) => pair.alone)))} alone: ${percent(ratio)} (median of ${runs})`,
    { shape, type, totalBytes, ratio, pairs },
  );

  const words = ['--name', folder, '--device', 'cuda', '--cpu_offload', '--max_new_tokens', '1'];
  const starts = (await beside(ask, () => secondsToFirstToken(words))).map(({ value: seconds, alone }) => ({
    seconds,
    alone,
  }));
  ring.disconnect();
  await once(ring, 'exit');
  const over = median(starts.map(({ seconds, alone }) => (seconds * alone) / totalBytes));
  const limit = totalBytes / median(starts.map(({ alone }) => alone));
  printResult(
    'start to first token',
    `${shape} in ${type}: ${median(starts.map(({ seconds }) => seconds)).toFixed(2)} s from the start of the process to its first ` +
      `output after one token; reading ${formatBytes(totalBytes)} takes ${limit.toFixed(2)} s: ${over.toFixed(2)} times ` +
      `that (median of ${runs})`,
    { shape, type, totalBytes, starts, ratio: over },
  );
}

/** What `measure` gives, each beside the ring alone just before and just after: a shared drive drifts for both. */
async function beside(
  ask: (question: Question) => Promise<number>,
  measure: () => Promise<number>,
): Promise<{ readonly value: number; readonly alone: number }[]> {
  const results: { value: number; alone: number }[] = [];
  let before = await ask('alone');
  for (let run = 0; run < runs; run++) {
    const value = await measure();
    const after = await ask('alone');
    // The rate of both together.
    results.push({ value, alone: 2 / (1 / before + 1 / after) });
    before = after;
  }
  return results;
}

function asker(ring: ChildProcess): (question: Question) => Promise<number> {
  const ended = new Promise<never>((_, reject) => {
    ring.once('exit', (status) => reject(new Error(`the process that reads ended with status ${status}`)));
  });
  ended.catch(() => undefined); // in the end it is meant to
  return async (question) => {
    const answered = new Promise<number>((resolve) => {
      ring.once('message', ({ rate }: { readonly rate: number }) => resolve(rate));
    });
    ring.send(question);
    return Promise.race([answered, ended]);
  };
}

/** Answers until the parent has no more questions. */
async function answer(): Promise<void> {
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
  const rateOf = async (question: Question): Promise<number> => {
    if (question === 'alone') {
      return (await engine.executor.measureReadLimit(Number.POSITIVE_INFINITY)).bytesPerSecond;
    }
    const requests = Array.from({ length: BATCH }, (_, index) => ({ index, promptTokens: PROMPT }));
    const startMs = performance.now();
    await generate(engine.executor, requests, { batchSize: BATCH, maxNewTokens: 1, stopTokens: new Set() });
    return (passBytes / (performance.now() - startMs)) * 1e3;
  };
  process.on('message', (question: Question) => {
    rateOf(question).then(
      (rate) => process.send?.({ rate }),
      (error: unknown) => {
        process.stderr.write(`${String(error)}\n`);
        process.exit(1);
      },
    );
  });
  await once(process, 'disconnect');
  await engine.close();
}
