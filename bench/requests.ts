// Does an engine that lives end every request once, with the text that it has alone, and cost nothing while it idles?
//
// node dist/bench/requests.js [--requests 10000] [--devices 1,3] [--seed 1] [--name FOLDER] [--idle_seconds 5] [--device cpu|cuda]

import { parseArgs } from 'node:util';
import { GiB, present } from '../offload/index.js';
import { Engine } from '../src/engine/engine.js';
import type { EngineOptions } from '../src/engine/engine-options.js';
import { generate } from '../src/engine/generate.js';
import { openModel } from '../src/engine/open-model.js';
import type { GenerationRequest, GenerationResult } from '../src/engine/request.js';
import { GREEDY } from '../src/engine/sampler.js';
import { Scheduler } from '../src/engine/scheduler.js';
import { printResult } from './common.js';
import { randomFrom } from './random.js';

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '10000' },
    devices: { type: 'string', default: '1,3' },
    seed: { type: 'string', default: '1' },
    name: { type: 'string', default: 'test/fixtures/models/llama-biases' },
    idle_seconds: { type: 'string', default: '5' },
    device: { type: 'string', default: 'cpu' },
  },
});
const CONTEXT = 96;
const random = randomFrom(Number(values.seed));
const below = (limit: number) => Math.floor(random() * limit);

const opened = await openModel(values.name);
const tokens = (count: number) => Array.from({ length: count }, () => below(opened.model.vocabSize));
const beginnings = [tokens(40), tokens(17), []];
const requests = Array.from({ length: Number(values.requests) }, (_, index): GenerationRequest => {
  const promptTokens = Int32Array.of(...present(beginnings[below(3)], 'beginning'), ...tokens(below(24)));
  const sampling = { ...GREEDY, temperature: 1, seed: index, repetitionPenalty: below(2) === 0 ? 1 : 1.1 };
  const maxNewTokens = below(20) === 0 ? below(2) * CONTEXT : 1 + below(24);
  return { index, promptTokens, maxNewTokens, ...(below(3) === 0 ? { sampling } : {}) };
});

function engineOptions(devices: number, cachedTokens?: number): EngineOptions {
  const sequences = cachedTokens === undefined ? 1 : 8;
  return {
    offload: 'dram',
    dramBudgetBytes: GiB,
    ...(values.device === 'cuda'
      ? { device: 'cuda', cuda: { devices: [...Array(devices).keys()] } }
      : { cpu: { virtualDevices: devices, threads: 1 } }),
    plan: { pageTokens: 8 },
    workload: {
      sequences,
      contextTokens: CONTEXT,
      promptTokens: 64 * sequences,
      output: 'tokens',
      history: true,
      ...(cachedTokens === undefined ? {} : { cachedTokens }),
    },
  };
}

/** Each request by itself, one after the other. */
async function separateRuns(): Promise<GenerationResult[]> {
  const engine = await Engine.open(opened, engineOptions(1));
  const results = await generate(engine.executor, requests, {
    batchSize: 1,
    maxNewTokens: 1,
    stopTokens: new Set(),
    sharesPages: false,
  });
  await engine.close();
  return results;
}

interface Told {
  readonly result: GenerationResult;
  times: number;
}

/** All requests in waves, some of them cancelled before, some after a few tokens. */
async function submitAll(scheduler: Scheduler): Promise<Map<number, Told>> {
  const told = new Map<number, Told>();
  for (let next = 0; next < requests.length; ) {
    for (let count = below(24); count > 0 && next < requests.length; count--) {
      const request = present(requests[next++], 'request');
      const submission = scheduler.submit(request);
      void submission.result.then((result) => {
        const known = told.get(request.index);
        if (known) known.times++;
        else told.set(request.index, { result, times: 1 });
      });
      const cancelAfter = below(7) === 0 ? below(8) : Number.POSITIVE_INFINITY;
      if (cancelAfter === 0) submission.cancel();
      else if (cancelAfter < 8) void cancelLater(submission, cancelAfter);
    }
    while (scheduler.openRequests > 24) await new Promise((resolve) => setImmediate(resolve));
  }
  await scheduler.whenIdle();
  return told;
}

async function cancelLater(submission: ReturnType<Scheduler['submit']>, after: number): Promise<void> {
  let seen = 0;
  try {
    for await (const _ of submission.tokens) if (++seen === after) submission.cancel();
  } catch {
    // Its result says what was wrong with it.
  }
}

const expected = await separateRuns();
for (const devices of values.devices.split(',').map(Number)) {
  const engine = await Engine.open(opened, engineOptions(devices, 240));
  let fedTokens = 0;
  const scheduler = new Scheduler(engine.executor, {
    onPass: (pass) => {
      fedTokens += pass.tokens;
    },
  });
  const startMs = performance.now();
  const told = await submitAll(scheduler);
  const seconds = (performance.now() - startMs) / 1e3;
  const counts = { stop: 0, length: 0, cancelled: 0, error: 0 };
  let [once, equal, promptTokens] = [0, 0, 0];
  for (const { index, promptTokens: prompt } of requests) {
    const { result, times } = present(told.get(index), 'what became of a request');
    const alone = present(expected[index], 'text');
    counts[result.finishReason]++;
    promptTokens += prompt.length;
    if (times === 1) once++;
    const whole =
      result.finishReason === 'cancelled' ? alone.tokens.slice(0, result.tokens.length) : alone.tokens;
    const code = result.finishReason === 'cancelled' ? undefined : alone.problem?.code;
    if (result.tokens.join() === whole.join() && result.problem?.code === code) equal++;
  }
  const pagesBack = scheduler.freePages.every((pages) => pages === engine.plan.kvPages);
  const idle = await measureIdle(engine, Number(values.idle_seconds));
  await scheduler.close();
  const leasedBuffers = engine.executor.leasedBuffers;
  await engine.close();
  const figures = {
    devices,
    seconds,
    once,
    equal,
    ...counts,
    promptTokens,
    fedTokens,
    pagesBack,
    leasedBuffers,
    idle,
  };
  printResult(
    'requests',
    `${requests.length} requests on ${devices} devices in ${seconds.toFixed(0)} s: ${once} ended once, ${equal} as alone ` +
      `(${counts.length + counts.stop} whole, ${counts.cancelled} cancelled, ${counts.error} refused); ` +
      `pages ${pagesBack ? 'all back' : 'LOST'}, ${leasedBuffers} buffers out; idle: ${(idle.share * 100).toFixed(2)} % of a core, ${idle.readBytes} bytes read`,
    figures,
  );
}

/** Share of one core, and bytes from the drive, while no request is open. */
async function measureIdle(engine: Engine, seconds: number): Promise<{ share: number; readBytes: number }> {
  const read = () =>
    engine.trace.summaries().reduce((sum, { lane, bytes }) => sum + (lane === 'nvme→dram' ? bytes : 0), 0);
  const [cpu, bytes] = [process.cpuUsage(), read()];
  await new Promise((resolve) => setTimeout(resolve, seconds * 1e3));
  const { user, system } = process.cpuUsage(cpu);
  return { share: (user + system) / 1e6 / seconds, readBytes: read() - bytes };
}
