// How much of its products' own rate does a prefill reach when every layer streams from DRAM? Many blocks of a large shape,
// as many as DRAM holds, on one GPU or several, beside the products of one block alone, and beside the link for the same bytes.
//
// node dist/bench/gpu/prefill.js [--shape bloom-176b] [--blocks 16] [--prompt 512] [--batch 32] [--passes 4] [--gpus 1]
//   [--type TYPE] [--vocabulary 16384] [--gpu_memory SIZE] [--slots SHARE] [--micro TOKENS] [--buffers COUNT] [--folder DIR] [--device cuda|cpu] [--products_ms MS]
//
// One generation takes several passes of prompts, each of which yields one token: layers of a pass are fetched while the
// pass before computes, as in a model with all of its blocks. The first pass is the load and does not count. With --gpu_memory the planner decides what
// rests there; with --slots as many percent of a mixture's experts have slots, and the rest of each layer rests on the GPU as well.

import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { detectHardware, formatBytes, formatRate, GiB, parseBytes } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import type { EngineOptions } from '../../src/engine/engine-options.js';
import { generate } from '../../src/engine/generate.js';
import { describePlacement } from '../../src/engine/placement.js';
import { DRAM_SHARE, planFor } from '../../src/engine/plan-for.js';
import { median, percent, printResult, readShapeType } from '../common.js';
import { countExperts, repeatedModel } from './repeated.js';
import { devicesFor, measureRates, requests } from './setting.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'bloom-176b' },
    blocks: { type: 'string', default: '16' },
    prompt: { type: 'string', default: '512' },
    batch: { type: 'string', default: '32' },
    passes: { type: 'string', default: '4' },
    gpus: { type: 'string', default: '1' },
    vocabulary: { type: 'string', default: '16384' },
    type: { type: 'string' },
    gpu_memory: { type: 'string' },
    slots: { type: 'string' },
    micro: { type: 'string' },
    /** Buffers for layers on each GPU. */
    buffers: { type: 'string' },
    folder: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
    products_ms: { type: 'string' },
  },
});
const [prompt, batch, passes, gpus, vocabulary] = [
  values.prompt,
  values.batch,
  values.passes,
  values.gpus,
  values.vocabulary,
].map(Number) as [number, number, number, number, number];
const kind = values.device === 'cpu' ? 'cpu' : 'cuda';
const startMs = performance.now();
const say = (what: string) =>
  process.stderr.write(`${((performance.now() - startMs) / 1e3).toFixed(1)} s: ${what}\n`);

const opened = await repeatedModel({
  shape: values.shape,
  blocks: Number(values.blocks),
  vocabulary,
  ...(values.type === undefined ? {} : { type: readShapeType(values.type) }),
  folder: values.folder,
  // Beside the file itself, tables and rows; what is measured later must not find less.
  mostDramBytes: DRAM_SHARE * detectHardware().dramAvailableBytes - 10 * GiB,
});
const { linkBytesPerSecond } = await measureRates(kind);
const budget = values.gpu_memory;
const decides = budget === undefined && values.slots === undefined ? { deviceResident: { layers: 0 } } : {};
const options: EngineOptions = {
  ...devicesFor(kind, gpus),
  offload: budget === undefined ? 'dram' : 'auto',
  keepSpans: true,
  ...(budget === undefined ? {} : { deviceBudgetBytes: parseBytes(budget, '--gpu_memory') }),
  plan: {
    ...decides,
    ...(values.slots === undefined
      ? {}
      : { expertSlots: Math.round((countExperts(opened.model) * Number(values.slots)) / 100) }),
    ...(values.micro === undefined ? {} : { microBatchTokens: Number(values.micro) }),
    ...(values.buffers === undefined ? {} : { deviceWindowLayers: Number(values.buffers) }),
  },
  workload: {
    sequences: batch,
    contextTokens: prompt + 1,
    promptTokens: batch * prompt,
    newTokens: 1,
    output: 'tokens',
  },
};
const productsMs =
  values.products_ms === undefined
    ? blockProductsMs(planFor(opened.model, options).microBatchTokens)
    : Number(values.products_ms);
say(`products of a block alone: ${productsMs.toFixed(2)} ms`);
const engine = await Engine.open(opened, options);
const { plan } = engine;
say(`opened: ${describePlacement(plan)}; micro-batches of ${plan.microBatchTokens} tokens`);
for (const { tier, name, bytes } of plan.terms) say(`  ${tier} ${name} ${formatBytes(bytes)}`);

interface PassTimes {
  readonly ms: number;
  readonly computeMs: number;
  /** Embedding of all micro-batches. */
  readonly embeddingMs: number;
  readonly stallMs: number;
}
const times: PassTimes[] = [];
let last = performance.now();
let spansSeen = 0;
const mark = () => {
  const now = performance.now();
  const busy = engine.trace.summaries().filter(({ lane }) => lane === 'compute');
  // On average over the devices.
  const computeMs = busy.reduce((sum, { busyMs }) => sum + busyMs, 0) / gpus;
  const embeddings = engine.trace.spans.slice(spansSeen).filter(({ name }) => name === 'embedding');
  spansSeen = engine.trace.spans.length;
  const embeddingMs = embeddings.reduce((sum, { startMs, endMs }) => sum + endMs - startMs, 0) / gpus;
  times.push({ ms: now - last, computeMs, embeddingMs, stallMs: engine.trace.computeStallMs / gpus });
  engine.trace.resetSums();
  say(`pass of ${(now - last).toFixed(0)} ms`);
  last = now;
};
await generate(engine.executor, requests((passes + 1) * batch * gpus, prompt, opened.model.vocabSize), {
  batchSize: batch,
  maxNewTokens: 1,
  stopTokens: new Set(),
  onPass: mark,
});
await engine.close();
opened.remove();
say('done');

const measured = times.slice(1);
const ms = median(measured.map((pass) => pass.ms));
const stallMs = median(measured.map((pass) => pass.stallMs));
const computeMs = median(measured.map((pass) => pass.computeMs));
const embeddingMs = median(measured.map((pass) => pass.embeddingMs));
const flops = plan.blockFlopsPerToken * batch * prompt;
const rate = (perPassMs: number) => flops / perPassMs / 1e9;
const alone = opened.blocks * productsMs;
const streamedBytes = plan.layers.reduce(
  (sum, { tier, layout }) => sum + (tier === 'gpu' ? 0 : layout.device.sizeBytes),
  0,
);
const linkMs = (streamedBytes / linkBytesPerSecond) * 1e3;
printResult(
  `prefill of ${values.shape} blocks, streamed${gpus > 1 ? ` to ${gpus} GPUs` : ''}`,
  `${opened.blocks} blocks, ${batch}×${prompt} tokens${gpus > 1 ? ' on each GPU' : ''}: ${ms.toFixed(0)} ms a pass, ` +
    `${rate(ms).toFixed(0)} TFLOP/s; products alone ${alone.toFixed(0)} ms, ${rate(alone).toFixed(0)} TFLOP/s: ` +
    `${percent(alone / ms)}; ${formatBytes(streamedBytes)} over a link of ${formatRate(linkBytesPerSecond)} ${linkMs.toFixed(0)} ms: ` +
    `${percent(linkMs / ms)}; computing ${computeMs.toFixed(0)} ms, of which embedding ${embeddingMs.toFixed(1)}; waiting for layers ${stallMs.toFixed(1)} ms: ` +
    `${percent(stallMs / ms)}; first pass, the load, ${((times[0]?.ms ?? 0) / 1e3).toFixed(1)} s`,
  {
    ...values,
    blocks: opened.blocks,
    blockBytes: opened.blockBytes,
    placement: describePlacement(plan),
    microBatchTokens: plan.microBatchTokens,
    times,
    passMs: ms,
    computeMs,
    embeddingMs,
    stallMs,
    flops,
    productsMs,
    streamedBytes,
    linkBytesPerSecond,
    linkShare: linkMs / ms,
    ratio: alone / ms,
    stallShare: stallMs / ms,
  },
);

/** block.ts in a process of its own, before this one takes memory of the GPU; as long as passes take to warm it. */
function blockProductsMs(micro: number): number {
  const { shape, prompt, batch } = values;
  const words = { shape, prompt, batch, micro: String(micro), seconds: '4' };
  const args = Object.entries(words).flatMap(([name, value]) => [`--${name}`, value]);
  const { status, stdout, stderr } = spawnSync(process.execPath, ['dist/bench/gpu/block.js', ...args], {
    encoding: 'utf8',
  });
  process.stderr.write(stderr);
  if (status !== 0) throw new Error(`block.js failed: ${stderr}`);
  const line = stdout.split('\n').find((text) => text.startsWith('{"question"')) ?? '{}';
  const { productsMs } = JSON.parse(line) as { productsMs?: number };
  if (productsMs === undefined) throw new Error('block.js printed no result');
  return productsMs;
}
