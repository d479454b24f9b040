// Are all GPUs of a pipeline busy? Steps of a model that rests on several together, beside what one GPU makes of its share of the
// layers alone, in the same run.
//
// node dist/bench/gpu/pipeline.js [--shape llama-3-70b] [--type bfloat16] [--gpus 2] [--batch 64,32] [--prompt 128] [--tokens 49]
//   [--blocks N] [--vocabulary N] [--gpu_memory 130GiB] [--device cuda|cpu]
//
// The blocks are all of one block's bytes (repeated.ts). `--batch` is of each batch on its way, of which there are as many as GPUs: one
// GPU computes as many texts at once. Rates are compared by what they compute: tokens a second times the bytes of the layers.

import { parseArgs } from 'node:util';
import { formatBytes, parseBytes } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import type { OpenedModel } from '../../src/engine/open-model.js';
import { describePlacement } from '../../src/engine/placement.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { percent, printResult, readShapeType } from '../common.js';
import { repeatedModel } from './repeated.js';
import { devicesFor, requests } from './setting.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'llama-3-70b' },
    type: { type: 'string', default: 'bfloat16' },
    gpus: { type: 'string', default: '2' },
    batch: { type: 'string', default: '64,32' },
    prompt: { type: 'string', default: '128' },
    tokens: { type: 'string', default: '49' },
    blocks: { type: 'string' },
    vocabulary: { type: 'string' },
    gpu_memory: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
  },
});
const kind = values.device === 'cpu' ? 'cpu' : 'cuda';
const gpus = Number(values.gpus);
const count = (text: string | undefined) => (text === undefined ? undefined : Number(text));
const batches = values.batch.split(',').map(Number);
const [prompt, tokens] = [Number(values.prompt), Number(values.tokens)];
/** Passes until every batch goes on token by token. */
const WARM_PASSES = 4;

interface Rates {
  readonly decodePerSecond: number;
  /** Prompt and new tokens of the whole job. */
  readonly jobPerSecond: number;
}

interface Measured {
  readonly layerBytes: number;
  readonly placement: string;
  /** By batch. */
  readonly rates: readonly Rates[];
}

const model = await repeatedModel({
  shape: values.shape,
  type: readShapeType(values.type),
  blocks: count(values.blocks),
  vocabulary: count(values.vocabulary),
});
try {
  const one = await measure(share(model, gpus), 1);
  const all = await measure(model, gpus);
  for (const [index, batch] of batches.entries()) report(batch, one, all, index);
} finally {
  model.remove();
}

/** The first blocks, and the head. */
function share(opened: OpenedModel, among: number): OpenedModel {
  const { blocks, caches } = opened.model;
  const some = Math.round(blocks.length / among);
  return {
    ...opened,
    model: { ...opened.model, blocks: blocks.slice(0, some), caches: caches.slice(0, some) },
  };
}

async function measure(opened: OpenedModel, devices: number): Promise<Measured> {
  const most = Math.max(...batches);
  const engine = await Engine.open(opened, {
    ...devicesFor(kind, devices),
    offload: kind === 'cpu' ? 'dram' : 'auto',
    ...(values.gpu_memory ? { deviceBudgetBytes: parseBytes(values.gpu_memory, '--gpu_memory') } : {}),
    plan: {
      expertSlots: 0,
      deviceResident: { layers: opened.model.blocks.length + 64 },
      ...(devices > 1 ? { pipeline: true } : {}),
    },
    workload: {
      sequences: most,
      contextTokens: prompt + tokens,
      promptTokens: most * prompt,
      newTokens: tokens,
      output: 'tokens',
    },
  });
  try {
    const { plan } = engine;
    const rates: Rates[] = [];
    // The first passes load.
    await rate(engine, 1, devices);
    for (const batch of batches) rates.push(await rate(engine, batch, devices));
    const layerBytes = plan.layers.reduce((sum, { layout }) => sum + layout.device.sizeBytes, 0);
    const stages = plan.pipeline?.stages.map(({ first, end }) => end - first).join(' + ');
    const placement = `${describePlacement(plan)}${stages === undefined ? '' : ` (${stages} layers)`}`;
    return { layerBytes, placement, rates };
  } finally {
    await engine.close();
  }
}

async function rate(engine: Engine, batch: number, devices: number): Promise<Rates> {
  const ends: { readonly ms: number; readonly tokens: number }[] = [];
  const texts = batch * devices;
  const startMs = performance.now();
  await generate(engine.executor, requests(texts, prompt, engine.model.vocabSize), {
    batchSize: batch,
    maxNewTokens: tokens,
    stopTokens: new Set(),
    sharesPages: false,
    onPass: ({ phase, tokens: made }: PassProgress) => {
      if (phase === 'decode') ends.push({ ms: performance.now(), tokens: made });
    },
  });
  const seconds = (performance.now() - startMs) / 1e3;
  // At its end the last batches are alone.
  const steady = ends.slice(WARM_PASSES * devices, ends.length - devices);
  const [first, last] = [steady[0], steady.at(-1)];
  const made = steady.slice(1).reduce((sum, one) => sum + one.tokens, 0);
  return {
    decodePerSecond: (made / ((last?.ms ?? Number.NaN) - (first?.ms ?? Number.NaN))) * 1e3,
    jobPerSecond: (texts * (prompt + tokens)) / seconds,
  };
}

function report(batch: number, one: Measured, all: Measured, index: number): void {
  const [alone, together] = [one.rates[index], all.rates[index]];
  if (!alone || !together) return;
  const work = (of: keyof Rates) => (together[of] * all.layerBytes) / (alone[of] * one.layerBytes);
  const [decode, job] = [work('decodePerSecond'), work('jobPerSecond')];
  printResult(
    `${values.shape} in ${values.type} on ${gpus} devices in a row, ${batch} texts on each`,
    `${all.placement}; decoding ${together.decodePerSecond.toFixed(0)} tokens/s, where one device makes ` +
      `${alone.decodePerSecond.toFixed(0)} of ${formatBytes(one.layerBytes)} of its ${formatBytes(all.layerBytes)} of layers: ` +
      `${decode.toFixed(2)} × its work, ${percent(decode / gpus)} of ${gpus} devices; with prompts ${job.toFixed(2)} ×`,
    {
      ...values,
      batch,
      devices: gpus,
      decodeRatio: decode,
      jobRatio: job,
      alone,
      together,
      layerBytes: all.layerBytes,
    },
  );
}
