// How fast does a dense model decode that rests in DRAM, when link and processor work on it together? Steps by the link alone, with the
// share that the plan begins with and corrects, and by the processor alone, beside what a plain reader and the link yield together.
//
// node dist/bench/gpu/rows.js [--shape opt-30b] [--type bfloat16] [--blocks N] [--batch 1,4] [--prompt 32] [--tokens 24]
//   [--compute off,auto,only] [--vocabulary N] [--device cuda|cpu]
//
// All blocks are of one block's bytes (repeated.ts), each in a place of its own. Times are medians of the later half of the steps, when
// the share has settled. A number in --compute has so many 32nds of the rows travel, uncorrected.

import { parseArgs } from 'node:util';
import { CUTS, formatRate, type PlanOptions } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { describePlacement } from '../../src/engine/placement.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { median, percent, printResult, readShapeType } from '../common.js';
import { repeatedModel } from './repeated.js';
import { devicesFor, measureBeside, requests } from './setting.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'opt-30b' },
    type: { type: 'string', default: 'bfloat16' },
    blocks: { type: 'string' },
    batch: { type: 'string', default: '1,4' },
    prompt: { type: 'string', default: '32' },
    tokens: { type: 'string', default: '24' },
    compute: { type: 'string', default: 'off,auto,only' },
    vocabulary: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
  },
});
const kind = values.device === 'cpu' ? 'cpu' : 'cuda';
const [prompt, tokens] = [Number(values.prompt), Number(values.tokens)];
const batches = values.batch.split(',').map(Number);
const model = await repeatedModel({
  shape: values.shape,
  type: readShapeType(values.type),
  ...(values.blocks ? { blocks: Number(values.blocks) } : {}),
  ...(values.vocabulary ? { vocabulary: Number(values.vocabulary) } : {}),
});

for (const batch of batches) {
  // Measured beside each batch, since others may be busy on the host.
  const together = await measureBeside(kind);
  const limit = together.linkBytesPerSecond + together.hostBytesPerSecond;
  let linkMs = Number.NaN;
  for (const compute of values.compute.split(',')) {
    const { stepMs, bytes, share, placement, link } = await measure(batch, compute);
    if (compute === 'off') linkMs = stepMs;
    const reached = bytes / (stepMs / 1e3);
    printResult(
      'decoding a dense model from DRAM by link and processor',
      `${values.shape}, batch ${batch}, processor ${compute}: ${stepMs.toFixed(1)} ms a step, ${formatRate(reached)} of weights, ` +
        `${(linkMs / stepMs).toFixed(2)} × the link alone, ${percent(reached / limit)} of ${formatRate(limit)} (reader ` +
        `${formatRate(together.hostBytesPerSecond)} beside a link of ${formatRate(together.linkBytesPerSecond)})` +
        `${share === undefined ? '' : `; ${Math.round(share * CUTS)} of ${CUTS} rows travel`}; ` +
        `the link was busy ${percent(link.busyShare)} of the time, at ${formatRate(link.bytesPerSecond)}`,
      {
        ...values,
        batch,
        compute,
        stepMs,
        weightBytes: bytes,
        bytesPerSecond: reached,
        timesLink: linkMs / stepMs,
        ofTogether: reached / limit,
        together,
        link,
        travellingShare: share ?? 1,
        placement,
      },
    );
  }
}
model.remove();

/** How the processor is to compute, by a word of --compute. */
function planFor(compute: string): Partial<PlanOptions> {
  const isNumber = /^\d+$/.test(compute);
  if (isNumber) return { hostRowShare: Number(compute) };
  // Virtual devices leave rows to the host only if they are told how many.
  if (kind === 'cpu' && compute !== 'off') return { hostRowShare: compute === 'only' ? 0 : CUTS >> 1 };
  return { cpuCompute: compute === 'off' || compute === 'only' ? compute : 'auto' };
}

async function measure(batch: number, compute: string) {
  const engine = await Engine.open(model, {
    ...devicesFor(kind, 1),
    offload: 'dram',
    plan: planFor(compute),
    workload: {
      sequences: batch,
      contextTokens: prompt + tokens,
      promptTokens: batch * prompt,
      output: 'tokens',
    },
    tell: (what) => process.stderr.write(`${what}\n`),
  });
  try {
    const { layers } = engine.plan;
    const bytes = layers.reduce((sum, { layout }) => sum + layout.device.sizeBytes, 0);
    const ms = await decode(engine, batch);
    const later = ms.slice(ms.length >> 1);
    const lane = engine.trace.summaries().find((one) => one.lane === 'dram→gpu');
    const busySeconds = (lane?.busyMs ?? 0) / 1e3;
    const laterMs = later.reduce((sum, one) => sum + one, 0);
    return {
      stepMs: median(later),
      bytes,
      share: engine.executor.rowCounts?.share,
      placement: describePlacement(engine.plan),
      link: { bytesPerSecond: (lane?.bytes ?? 0) / busySeconds, busyShare: (1e3 * busySeconds) / laterMs },
    };
  } finally {
    await engine.close();
  }
}

/** Milliseconds of each step. */
async function decode(engine: Engine, batch: number): Promise<number[]> {
  const spent: number[] = [];
  let last = performance.now();
  await generate(engine.executor, requests(batch, prompt, model.model.vocabSize), {
    batchSize: batch,
    maxNewTokens: tokens,
    stopTokens: new Set(),
    onPass: ({ phase }: PassProgress) => {
      const now = performance.now();
      if (phase === 'decode') spent.push(now - last);
      // What the link does is summed over the later half alone.
      if (spent.length === tokens >> 1) engine.trace.resetSums();
      last = now;
    },
  });
  return spent;
}
