// What does a step cost that computes eight micro-batches on each layer instead of one? Less than a tenth more, while
// computing hides under the copies: so many more tokens a second for the same bytes moved.
//
// node dist/bench/gpu/micro.js [--shape opt-6.7b] [--sequences 8] [--micro_batches 8] [--prompt 32] [--tokens 10]
//   [--blocks N] [--folder DIR] [--device cuda|cpu]
//
// Every layer streams from DRAM, keys and values stay on the device. The blocks are all of one block's bytes (repeated.ts).

import { parseArgs } from 'node:util';
import { formatRate } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { describePlacement } from '../../src/engine/placement.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { median, printResult } from '../common.js';
import { repeatedModel } from './repeated.js';
import { devicesFor, measureRates, requests } from './setting.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'opt-6.7b' },
    sequences: { type: 'string', default: '8' },
    micro_batches: { type: 'string', default: '8' },
    prompt: { type: 'string', default: '32' },
    tokens: { type: 'string', default: '10' },
    blocks: { type: 'string' },
    folder: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
  },
});
const [sequences, microBatches, prompt, tokens] = [
  values.sequences,
  values.micro_batches,
  values.prompt,
  values.tokens,
].map(Number) as [number, number, number, number];
const kind = values.device === 'cpu' ? 'cpu' : 'cuda';
const { linkBytesPerSecond } = await measureRates(kind);
const opened = await repeatedModel({
  shape: values.shape,
  folder: values.folder,
  ...(values.blocks === undefined ? {} : { blocks: Number(values.blocks) }),
});
const one = await decode(sequences, 1);
const many = await decode(sequences * microBatches, microBatches);
opened.remove();
const ratio = many.stepMs / one.stepMs;
const perSecond = ({ stepMs }: { stepMs: number }, batch: number) => (batch / stepMs) * 1e3;
const gain = perSecond(many, sequences * microBatches) / perSecond(one, sequences);
printResult(
  `${microBatches} micro-batches against 1, ${values.shape}`,
  `${one.placement}; decode, ${microBatches} micro-batches of ${sequences}: ${many.stepMs.toFixed(1)} ms a step, 1 of ` +
    `${sequences}: ${one.stepMs.toFixed(1)} ms: ${ratio.toFixed(3)} times; tokens a second ${gain.toFixed(2)} times; ` +
    `link ${formatRate(many.linkRate)} and ${formatRate(one.linkRate)} of ${formatRate(linkBytesPerSecond)}`,
  { ...values, ratio, gain, linkBytesPerSecond, one, many },
);

/** Median of the decode steps of one generation, after one that loads. */
async function decode(batch: number, expected: number) {
  const engine = await Engine.open(opened, {
    ...devicesFor(kind, 1),
    offload: 'dram',
    plan: { deviceResident: { layers: 0 }, microBatchSequences: sequences },
    workload: {
      sequences: batch,
      contextTokens: prompt + tokens,
      promptTokens: batch * prompt,
      newTokens: tokens,
      output: 'tokens',
    },
  });
  const steps: number[] = [];
  let computed = 0;
  let last = performance.now();
  for (const maxNewTokens of [1, tokens]) {
    last = performance.now();
    await generate(engine.executor, requests(batch, prompt, opened.model.vocabSize), {
      batchSize: batch,
      maxNewTokens,
      stopTokens: new Set(),
      onPass: (pass: PassProgress) => {
        const now = performance.now();
        if (pass.phase === 'decode') {
          steps.push(now - last);
          computed = pass.microBatches;
        }
        last = now;
      },
    });
  }
  const placement = describePlacement(engine.plan);
  const bytes = engine.plan.layers.reduce((sum, { layout }) => sum + layout.device.sizeBytes, 0);
  const kvOnDevice = engine.plan.kvBuffers.count === 0;
  await engine.close();
  if (computed !== expected || !kvOnDevice) {
    throw new Error(`${computed} micro-batches, keys and values ${kvOnDevice ? 'on the device' : 'in DRAM'}`);
  }
  const stepMs = median(steps);
  return { batch, stepMs, steps, placement, linkRate: (bytes / stepMs) * 1e3 };
}
