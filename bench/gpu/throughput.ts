// How many tokens a second does a whole job make, prompts included, on a model that fits neither GPU nor patience? With the
// plan that the runtime takes by itself, beside what the link allows for the same bytes, and beside a peer; and how many
// times that, when weights, and keys and values as well, are of fewer bits.
//
// node dist/bench/gpu/throughput.js [--shape opt-30b] [--jobs bfloat16,int4,int4+int8] [--gpu_memory 16GiB] [--batch auto]
//   [--prompt 512] [--tokens 32] [--blocks N] [--dram_memory SIZE] [--kv auto|dram] [--gpus 1] [--folder DIR]
//   [--device cuda|cpu] [--seconds 480]
//
// A job is the type of the weights, and after a + that of the keys and values; the others are compared with the first. None
// is begun that would, if it took as long as the last one, end after so many seconds.
//
// The blocks are all of one block's bytes (repeated.ts). FlexGen was measured on the same kind of host (one H100 80GB, PCIe
// 5 ×16, 128 GiB) with this shape, weights and keys and values in DRAM: batch 48, prefill 5.3 to 8.8 s, 2.2 s a step.

import { parseArgs } from 'node:util';
import {
  detectHardware,
  formatBytes,
  formatRate,
  type PlanOptions,
  parseBytes,
  present,
} from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import type { EngineOptions } from '../../src/engine/engine-options.js';
import { generate } from '../../src/engine/generate.js';
import { findAutoBatch } from '../../src/engine/largest-batch.js';
import { describePlacement } from '../../src/engine/placement.js';
import { DRAM_SHARE, planFor } from '../../src/engine/plan-for.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { median, percent, printResult, readShapeType } from '../common.js';
import { repeatedModel } from './repeated.js';
import { devicesFor, measureRates, requests } from './setting.js';

const FLEXGEN = {
  shape: 'opt-30b',
  prompt: 512,
  tokens: 32,
  batch: 48,
  prefillSeconds: 5.3,
  stepSeconds: 2.2,
};

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'opt-30b' },
    jobs: { type: 'string', default: 'bfloat16' },
    blocks: { type: 'string' },
    gpu_memory: { type: 'string', default: '16GiB' },
    dram_memory: { type: 'string' },
    batch: { type: 'string', default: 'auto' },
    prompt: { type: 'string', default: '512' },
    tokens: { type: 'string', default: '32' },
    kv: { type: 'string', default: 'auto' },
    gpus: { type: 'string', default: '1' },
    folder: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
    seconds: { type: 'string', default: '480' },
  },
});
const [prompt, newTokens, gpus] = [values.prompt, values.tokens, values.gpus].map(Number) as [
  number,
  number,
  number,
];
const kind = values.device === 'cpu' ? 'cpu' : 'cuda';
const deviceBudgetBytes = parseBytes(values.gpu_memory, '--gpu_memory');
const startMs = performance.now();
const seconds = (sinceMs: number) => (performance.now() - sinceMs) / 1e3;
const say = (what: string) => process.stderr.write(`${seconds(startMs).toFixed(1)} s: ${what}\n`);

/** Types that keys and values may have instead of the activations'. */
const KV_TYPES: Readonly<Record<string, PlanOptions['kvType']>> = { fp8: 'e4m3', int8: 'i8', int4: 'u8' };

const done: { readonly name: string; readonly tokensPerSecond: number }[] = [];
let longestSeconds = 0;
for (const name of values.jobs.split(',')) {
  if (seconds(startMs) + longestSeconds > Number(values.seconds)) {
    say(`${name} is left out: it might not end within ${values.seconds} s`);
    continue;
  }
  const beganMs = performance.now();
  try {
    done.push({ name, tokensPerSecond: await job(name) });
  } catch (error) {
    say(`${name} is left out: ${error instanceof Error ? error.message : String(error)}`);
  }
  longestSeconds = seconds(beganMs);
}
const [first, ...others] = done;
for (const { name, tokensPerSecond } of first ? others : []) {
  const times = tokensPerSecond / (first?.tokensPerSecond ?? Number.NaN);
  printResult(
    `throughput of ${values.shape}, ${name} against ${first?.name}`,
    `${times.toFixed(2)} times as many tokens a second`,
    { ...values, first, name, tokensPerSecond, times },
  );
}

/** Tokens a second of a whole job. */
async function job(name: string): Promise<number> {
  const [typeName = '', kvName] = name.split('+');
  const type = readShapeType(typeName);
  const kvType =
    kvName === undefined
      ? undefined
      : present(KV_TYPES[kvName], `--jobs: ${kvName} of ${Object.keys(KV_TYPES).join(', ')}`);
  const { linkBytesPerSecond } = await measureRates(kind);
  const opened = await repeatedModel({
    shape: values.shape,
    type,
    folder: values.folder,
    ...(values.blocks === undefined ? {} : { blocks: Number(values.blocks) }),
  });
  // Looked at once: a plan with a little less than the batch was chosen for would be another one.
  const dramBudgetBytes =
    values.dram_memory === undefined
      ? Math.floor(DRAM_SHARE * detectHardware().dramAvailableBytes)
      : parseBytes(values.dram_memory, '--dram_memory');
  const optionsFor = (sequences: number): EngineOptions => ({
    ...devicesFor(kind, gpus),
    offload: 'auto',
    deviceBudgetBytes,
    dramBudgetBytes,
    plan: {
      kvOffload: values.kv === 'dram',
      ...(kvType === undefined ? {} : { kvType }),
      ...(kind === 'cpu' ? { deviceBudgetBytes, deviceBudgetName: '--gpu_memory' } : {}),
    },
    workload: {
      sequences,
      contextTokens: prompt + newTokens,
      promptTokens: sequences * prompt,
      newTokens,
      output: 'tokens',
    },
  });
  const chosen =
    values.batch === 'auto'
      ? findAutoBatch((sequences) => planFor(opened.model, optionsFor(sequences)))
      : { sequences: Number(values.batch), refusal: undefined };
  const batch = chosen.sequences;
  say(`batch ${batch}${chosen.refusal === undefined ? '' : `; with one more, ${chosen.refusal}`}`);

  const engine = await Engine.open(opened, optionsFor(batch));
  const { plan } = engine;
  say(
    `opened: ${describePlacement(plan)}; micro-batches of ${plan.microBatchTokens} tokens and ${plan.microBatchSequences} ` +
      `sequences, passes of ${plan.passTokens} tokens`,
  );
  for (const { tier, name, bytes } of plan.terms) say(`  ${tier} ${name} ${formatBytes(bytes)}`);
  const common = { batchSize: batch, stopTokens: new Set<number>() };
  // The first pass is the load.
  await generate(engine.executor, requests(gpus, 8, opened.model.vocabSize), { ...common, maxNewTokens: 1 });
  say('loaded');

  const streamedBytes = plan.layers.reduce(
    (sum, { tier, layout }) => sum + (tier === 'gpu' ? 0 : layout.device.sizeBytes),
    0,
  );
  const kvBytes = () =>
    engine.trace.summaries().reduce((sum, { lane, bytes }) => sum + (lane === 'kv dram→gpu' ? bytes : 0), 0);
  const spent = { prefill: [] as number[], mixed: [] as number[], decode: [] as number[] };
  engine.trace.resetSums();
  let kvBytesBeforeDecode = 0;
  let last = performance.now();
  const generatedMs = last;
  await generate(engine.executor, requests(batch * gpus, prompt, opened.model.vocabSize), {
    ...common,
    maxNewTokens: newTokens,
    onPass: ({ phase }: PassProgress) => {
      const now = performance.now();
      spent[phase].push(now - last);
      last = now;
      if (phase !== 'decode') kvBytesBeforeDecode = kvBytes();
    },
  });
  const totalSeconds = seconds(generatedMs);
  const kvDecodeBytes = kvBytes() - kvBytesBeforeDecode;
  const allKvBytes = kvBytes();
  const stallMs = engine.trace.computeStallMs;
  await engine.close();
  opened.remove();
  say('done');

  const sum = (ms: readonly number[]) => ms.reduce((all, one) => all + one, 0) / 1e3;
  const tokens = batch * gpus * newTokens;
  const rate = tokens / totalSeconds;
  const prefillSeconds = sum([...spent.prefill, ...spent.mixed]);
  const stepMs = spent.decode.length > 0 ? median(spent.decode) : Number.NaN;
  // Each link carries its share of the layers, and the keys and values of its device.
  const linkSeconds = (bytes: number) => bytes / gpus / linkBytesPerSecond;
  const decodeShare =
    linkSeconds(spent.decode.length * streamedBytes + kvDecodeBytes) / Math.max(sum(spent.decode), 1e-9);
  const passes = spent.prefill.length + spent.mixed.length + spent.decode.length;
  const jobShare = linkSeconds(passes * streamedBytes + allKvBytes) / totalSeconds;
  const comparable =
    values.shape === FLEXGEN.shape &&
    prompt === FLEXGEN.prompt &&
    newTokens === FLEXGEN.tokens &&
    gpus === 1 &&
    values.blocks === undefined &&
    name === 'bfloat16';
  const peerRate =
    (FLEXGEN.batch * FLEXGEN.tokens) / (FLEXGEN.prefillSeconds + (FLEXGEN.tokens - 1) * FLEXGEN.stepSeconds);
  printResult(
    `throughput of ${values.shape}, ${name}, in ${values.gpu_memory}`,
    `${describePlacement(plan)}; batch ${batch}${gpus > 1 ? ' each' : ''}, ${prompt} + ${newTokens} tokens: ${tokens} new ` +
      `tokens in ${totalSeconds.toFixed(1)} s, ${rate.toFixed(1)} a second` +
      `${comparable ? ` (FlexGen at best ${peerRate.toFixed(1)}: ${(rate / peerRate).toFixed(2)} times that)` : ''}; ` +
      `prefill ${prefillSeconds.toFixed(2)} s in ${spent.prefill.length + spent.mixed.length} passes, decode ` +
      `${stepMs.toFixed(0)} ms a step: weights and keys and values at ${percent(decodeShare)} of the link's ` +
      `${formatRate(linkBytesPerSecond)}, of the whole job ${percent(jobShare)}`,
    {
      ...values,
      job: name,
      batch,
      refusal: chosen.refusal,
      placement: describePlacement(plan),
      microBatchTokens: plan.microBatchTokens,
      microBatchSequences: plan.microBatchSequences,
      passTokens: plan.passTokens,
      totalSeconds,
      tokensPerSecond: rate,
      prefillSeconds,
      stepMs,
      spent,
      streamedBytes,
      kvDecodeBytes,
      allKvBytes,
      stallMs,
      linkBytesPerSecond,
      decodeShare,
      jobShare,
      ...(comparable ? { peerTokensPerSecond: peerRate, timesPeer: rate / peerRate } : {}),
    },
  );
  return rate;
}
