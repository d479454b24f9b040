// What do several GPUs gain that compute every layer together? Steps of a model at rest on all of them, and of one whose slices
// stream, beside what each GPU's own copies and links would take for its bytes.
//
// node dist/bench/gpu/tensor.js [--shape llama-3-70b] [--type bfloat16] [--gpus 2] [--batch 1,128] [--prompt 32] [--tokens 33]
//   [--rest auto|0|N] [--gpu_memory 130GiB] [--blocks N] [--alone] [--device cuda|cpu]
//
// The blocks are all of one block's bytes (repeated.ts). `--alone` has one GPU compute the same model first, where it holds it.

import { parseArgs } from 'node:util';
import { formatBytes, formatRate, parseBytes } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { describePlacement } from '../../src/engine/placement.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { shareOpened } from '../../src/engine/share-opened.js';
import { median, percent, printResult, readShapeType } from '../common.js';
import { repeatedModel } from './repeated.js';
import { devicesFor, measureRates, requests } from './setting.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'llama-3-70b' },
    type: { type: 'string', default: 'bfloat16' },
    gpus: { type: 'string', default: '2' },
    batch: { type: 'string', default: '1,128' },
    prompt: { type: 'string', default: '32' },
    tokens: { type: 'string', default: '33' },
    rest: { type: 'string', default: 'auto' },
    gpu_memory: { type: 'string' },
    blocks: { type: 'string' },
    vocabulary: { type: 'string' },
    alone: { type: 'boolean', default: false },
    device: { type: 'string', default: 'cuda' },
  },
});
const kind = values.device === 'cpu' ? 'cpu' : 'cuda';
const gpus = Number(values.gpus);
const count = (text: string | undefined) => (text === undefined ? undefined : Number(text));
const batches = values.batch.split(',').map(Number);
const tokens = Number(values.tokens);
const prompt = Number(values.prompt);

const rates = await measureRates(kind);
const model = await repeatedModel({
  shape: values.shape,
  type: readShapeType(values.type),
  blocks: count(values.blocks),
  vocabulary: count(values.vocabulary),
});
const most = Math.max(...batches);
if (values.alone) await measure(1);
await measure(gpus);
model.remove();

/** Milliseconds of a step, by batch. */
async function measure(devices: number): Promise<void> {
  const opened = devices === 1 ? model : shareOpened(model, devices);
  const rest = values.rest === 'auto' ? 'auto' : { layers: Number(values.rest) };
  const engine = await Engine.open(opened, {
    ...devicesFor(kind, devices),
    offload: values.rest === 'auto' ? 'auto' : 'dram',
    ...(values.gpu_memory ? { deviceBudgetBytes: parseBytes(values.gpu_memory, '--gpu_memory') } : {}),
    plan: { deviceResident: rest, expertSlots: 0 },
    workload: {
      sequences: most,
      contextTokens: prompt + tokens,
      promptTokens: most * prompt,
      output: 'tokens',
    },
  });
  try {
    await stepMs(engine, batches[0] ?? 1);
    for (const batch of batches) report(engine, devices, batch, await stepMs(engine, batch));
  } finally {
    await engine.close();
  }
}

/** The median of a step. */
async function stepMs(engine: Engine, batchSize: number): Promise<number> {
  const spent: number[] = [];
  let last = performance.now();
  await generate(engine.executor, requests(batchSize, prompt, engine.model.vocabSize), {
    batchSize,
    maxNewTokens: tokens,
    stopTokens: new Set(),
    onPass: ({ phase }: PassProgress) => {
      const now = performance.now();
      if (phase === 'decode') spent.push(now - last);
      last = now;
    },
  });
  return median(spent);
}

function report({ plan }: Engine, devices: number, batch: number, ms: number): void {
  const bytesOf = (resting: boolean) =>
    plan.layers.reduce(
      (sum, { tier, layout }) => sum + ((tier === 'gpu') === resting ? layout.device.sizeBytes : 0),
      0,
    );
  const [restBytes, streamedBytes] = [bytesOf(true), bytesOf(false)];
  const memoryMs = ((restBytes + streamedBytes) / rates.memoryBytesPerSecond) * 1e3;
  const linkMs = (streamedBytes / rates.linkBytesPerSecond) * 1e3;
  const limitMs = Math.max(memoryMs, linkMs);
  printResult(
    `${values.shape} in ${values.type} on ${devices} devices together, batch ${batch}`,
    `${describePlacement(plan)}; ${ms.toFixed(2)} ms a step, ${(ms / batch).toFixed(3)} ms a token; each device reads ` +
      `${formatBytes(restBytes)} at rest and pulls ${formatBytes(streamedBytes)}: ${percent(limitMs / ms)} of what its copies ` +
      `(${formatRate(rates.memoryBytesPerSecond)}) and its link (${formatRate(rates.linkBytesPerSecond)}) would take`,
    { ...values, devices, batch, ms, restBytes, streamedBytes, memoryMs, linkMs, ...rates },
  );
}
