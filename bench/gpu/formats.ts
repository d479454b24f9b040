// How near do stored weights of 8 and 4 bits come to the limits of 16, byte for byte? All types in turn, in one run: decode
// and prefill with every layer streamed from DRAM, and decode with all of them at rest.
//
// node dist/bench/gpu/formats.js [--shape opt-6.7b] [--types bfloat16,fp8,int4] [--cases decode8,decode32,prefill,rest]
//   [--prompt 512] [--rounds 3] [--seconds 240] [--blocks N] [--vocabulary N] [--folder DIR] [--device cuda|cpu]
//
// The blocks are all of one block's bytes (repeated.ts). Limits are the link's and the device's own copies, before and after
// each case. After `--seconds` no case and no round is begun.

import { parseArgs } from 'node:util';
import { formatBytes, formatRate, present } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { describePlacement } from '../../src/engine/placement.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import type { ShapeType } from '../../src/engine/shape-tensors.js';
import { median, percent, printResult, readShapeType } from '../common.js';
import { type RepeatedModel, repeatedModel } from './repeated.js';
import { devicesFor, measureRates, type Rates, requests } from './setting.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'opt-6.7b' },
    types: { type: 'string', default: 'bfloat16,fp8,int4' },
    cases: { type: 'string', default: 'decode8,decode32,prefill,rest' },
    prompt: { type: 'string', default: '512' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '240' },
    blocks: { type: 'string' },
    vocabulary: { type: 'string' },
    folder: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
  },
});
const kind = values.device === 'cpu' ? 'cpu' : 'cuda';
const longPrompt = Number(values.prompt);
const rounds = Number(values.rounds);
const types = values.types.split(',').map(readShapeType);

interface Case {
  readonly what: string;
  readonly batch: number;
  readonly prompt: number;
  readonly tokens: number;
  readonly rests: boolean;
  /** What counts: the passes that take in the prompts, or those that make tokens. */
  readonly phase: 'prefill' | 'decode';
}

const CASES: Readonly<Record<string, Case>> = {
  decode8: { what: 'decode, batch 8', batch: 8, prompt: 32, tokens: 9, rests: false, phase: 'decode' },
  decode32: {
    what: `decode, batch 32 × ${longPrompt}`,
    batch: 32,
    prompt: longPrompt,
    tokens: 7,
    rests: false,
    phase: 'decode',
  },
  prefill: {
    what: `prefill 64 × ${longPrompt}`,
    batch: 64,
    prompt: longPrompt,
    tokens: 1,
    rests: false,
    phase: 'prefill',
  },
  rest: { what: 'at rest, batch 1', batch: 1, prompt: 32, tokens: 65, rests: true, phase: 'decode' },
};

/** What OPT-6.7B is to reach: a share of the limit in stored bytes, milliseconds, times what bfloat16 takes. */
const BARS: Readonly<
  Record<string, { readonly share?: number; readonly ms?: number; readonly ratio?: number }>
> = {
  'decode8 int4': { share: 0.95, ms: 78 },
  'decode32 int4': { share: 0.95, ms: 78 },
  'decode8 fp8': { share: 0.95, ms: 132 },
  'decode32 fp8': { share: 0.95, ms: 132 },
  'prefill int4': { ratio: 1.06 },
  'prefill fp8': { ratio: 1.06 },
  'rest int4': { share: 0.6 },
  'rest fp8': { share: 0.7 },
  'rest bfloat16': { share: 0.75 },
};

const startMs = performance.now();
const elapsedSeconds = () => (performance.now() - startMs) / 1e3;
const say = (what: string) => process.stderr.write(`${elapsedSeconds().toFixed(1)} s: ${what}\n`);
const isLate = () => elapsedSeconds() > Number(values.seconds);

for (const name of values.cases.split(',')) {
  if (isLate()) say(`${name} is left out: ${values.seconds} s are over`);
  else await measure(name, present(CASES[name], `--cases: ${name} of ${Object.keys(CASES).join(', ')}`));
}

interface Runner {
  readonly type: ShapeType;
  readonly model: RepeatedModel;
  readonly engine: Engine;
  /** Milliseconds of each round. */
  readonly times: number[];
}

async function measure(name: string, one: Case): Promise<void> {
  const before = await measureRates(kind);
  const runners: Runner[] = [];
  for (const type of types) {
    const runner = await unlessItFails(type, () => openRunner(type, one));
    if (runner) runners.push(runner);
  }
  say(`${one.what}: ${runners.map(({ type }) => type).join(', ')} are loaded`);
  let done = 0;
  while (done < rounds && !(done > 0 && isLate())) {
    // Whoever is first in one round is last in another.
    for (const [index] of runners.entries()) {
      const { engine, model, times } = present(runners[(index + done) % runners.length], 'a type');
      times.push(await timeOf(engine, model, one));
    }
    done++;
  }
  for (const { engine, model } of runners) {
    await engine.close();
    model.remove();
  }
  const rates = meanOf(before, await measureRates(kind));
  for (const runner of runners) report(name, one, runner, runners, rates);
}

/** A format that a device has no kernel for must not lose the others' results. */
async function unlessItFails<T>(type: ShapeType, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    say(`${type} is left out: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}

async function openRunner(type: ShapeType, one: Case): Promise<Runner> {
  const count = (text: string | undefined) => (text === undefined ? undefined : Number(text));
  const model = await repeatedModel({
    shape: values.shape,
    type,
    folder: values.folder,
    blocks: count(values.blocks),
    vocabulary: count(values.vocabulary),
  });
  const engine = await Engine.open(model, {
    ...devicesFor(kind, 1),
    offload: 'dram',
    plan: { deviceResident: one.rests ? 'auto' : { layers: 0 } },
    workload: {
      sequences: one.batch,
      contextTokens: one.prompt + one.tokens,
      promptTokens: one.batch * one.prompt,
      output: 'tokens',
    },
  });
  try {
    // The first pass is the load, and the first of a kind looks for ways.
    await timeOf(engine, model, one);
  } catch (error) {
    await engine.close().catch(() => undefined);
    model.remove();
    throw error;
  }
  return { type, model, engine, times: [] };
}

/** Milliseconds of the passes that take in the prompts together, or the median of a step. */
async function timeOf(engine: Engine, { model }: RepeatedModel, one: Case): Promise<number> {
  const spent: Record<PassProgress['phase'], number[]> = { prefill: [], mixed: [], decode: [] };
  let last = performance.now();
  await generate(engine.executor, requests(one.batch, one.prompt, model.vocabSize), {
    batchSize: one.batch,
    maxNewTokens: one.tokens,
    stopTokens: new Set(),
    onPass: ({ phase }: PassProgress) => {
      const now = performance.now();
      spent[phase].push(now - last);
      last = now;
    },
  });
  if (one.phase === 'decode') return median(spent.decode);
  return [...spent.prefill, ...spent.mixed].reduce((sum, ms) => sum + ms, 0);
}

function meanOf(a: Rates, b: Rates): Rates {
  return {
    linkBytesPerSecond: (a.linkBytesPerSecond + b.linkBytesPerSecond) / 2,
    memoryBytesPerSecond: (a.memoryBytesPerSecond + b.memoryBytesPerSecond) / 2,
  };
}

function report(name: string, one: Case, runner: Runner, all: readonly Runner[], rates: Rates): void {
  const { type, times, engine, model } = runner;
  const { plan } = engine;
  const storedBytes = plan.layers.reduce((sum, { layout }) => sum + layout.device.sizeBytes, 0);
  const limit = one.rests ? rates.memoryBytesPerSecond : rates.linkBytesPerSecond;
  const ms = median(times);
  const share = storedBytes / (ms / 1e3) / limit;
  const plain = all.find((other) => other.type === 'bfloat16');
  const ratio = plain && median(times.map((time, round) => time / present(plain.times[round], 'a round')));
  const flops = plan.blockFlopsPerToken * one.batch * one.prompt;
  const isWhole = values.shape === 'opt-6.7b' && values.blocks === undefined && longPrompt === 512;
  const bar = isWhole ? BARS[`${name} ${type}`] : undefined;
  const met =
    bar &&
    share >= (bar.share ?? 0) &&
    ms <= (bar.ms ?? Number.POSITIVE_INFINITY) &&
    (ratio ?? 0) <= (bar.ratio ?? Number.POSITIVE_INFINITY);
  const rate =
    one.phase === 'prefill'
      ? `${(flops / ms / 1e9).toFixed(0)} TFLOP/s`
      : `${formatBytes(storedBytes)} stored at ${percent(share)} of ${one.rests ? 'copies in its memory' : 'the link'}, ${formatRate(limit)}`;
  printResult(
    `${one.what}, ${values.shape} in ${type}`,
    `${describePlacement(plan)}; ${ms.toFixed(2)} ms, ${rate}` +
      `${ratio === undefined || runner === plain ? '' : `, ${ratio.toFixed(3)} times bfloat16's`}` +
      `${bar ? ` (${JSON.stringify(bar)}: ${met ? 'met' : 'not met'})` : ''}; ${times.length} rounds`,
    {
      ...values,
      case: name,
      type,
      ms,
      times,
      storedBytes,
      blockBytes: model.blockBytes,
      blocks: model.blocks,
      share,
      ratio,
      limitBytesPerSecond: limit,
      ...rates,
      prefillFlops: flops,
      placement: describePlacement(plan),
      bar,
      met,
    },
  );
}
