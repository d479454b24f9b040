// How fast does a mixture decode whose experts come when they are chosen? Steps at several numbers of slots, beside the bytes that
// came and what the link needs for them.
//
// node dist/bench/gpu/slots.js [--shape gpt-oss-120b] [--type mxfp4] [--blocks N] [--slots 11,25,40] [--batch 1] [--prompt 64]
//   [--tokens 96] [--skew 1] [--vocabulary N] [--device cuda|cpu]
//
// --slots are shares of all experts in percent. All blocks are of one block's bytes (repeated.ts), each in a place of its own. With
// --skew the router's biases make experts as unlike as words are. Times are means of the later half of the steps, since misses vary.

import { parseArgs } from 'node:util';
import { formatBytes, formatRate, present } from '../../offload/index.js';
import { expertOf } from '../../offload/model/experts.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { percent, printResult, readShapeType } from '../common.js';
import { repeatedModel } from './repeated.js';
import { devicesFor, measureRates, requests } from './setting.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'gpt-oss-120b' },
    type: { type: 'string', default: 'mxfp4' },
    blocks: { type: 'string' },
    slots: { type: 'string', default: '11,25,40' },
    batch: { type: 'string', default: '1' },
    prompt: { type: 'string', default: '64' },
    tokens: { type: 'string', default: '96' },
    skew: { type: 'string', default: '0' },
    vocabulary: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
  },
});
const kind = values.device === 'cpu' ? 'cpu' : 'cuda';
const [batch, prompt, tokens] = [values.batch, values.prompt, values.tokens].map(Number) as [
  number,
  number,
  number,
];
const model = await repeatedModel({
  shape: values.shape,
  type: readShapeType(values.type),
  skew: Number(values.skew),
  ...(values.blocks ? { blocks: Number(values.blocks) } : {}),
  ...(values.vocabulary ? { vocabulary: Number(values.vocabulary) } : {}),
});
const { linkBytesPerSecond } = await measureRates(kind);
const workload = {
  sequences: batch,
  contextTokens: prompt + tokens,
  promptTokens: batch * prompt,
  output: 'tokens',
} as const;

const experts = countExperts();
let rounds = 0;
for (const share of values.slots.split(',').map(Number)) {
  const expertSlots = Math.max(1, Math.round((experts * share) / 100));
  const engine = await Engine.open(model, {
    ...devicesFor(kind, 1),
    offload: 'dram',
    plan: { expertSlots },
    workload,
  });
  try {
    await measure(engine, share);
  } finally {
    await engine.close();
  }
}
model.remove();

async function measure(engine: Engine, share: number): Promise<void> {
  const slots = present(engine.executor.plan.slots, 'slots of the plan');
  await run(engine);
  const before = present(await engine.executor.slotCounts(), 'counts');
  const ms = await run(engine);
  const after = present(await engine.executor.slotCounts(), 'counts');
  const [hits, misses] = [after.hits - before.hits, after.misses - before.misses];
  const later = ms.slice(ms.length >> 1);
  const stepMs = later.reduce((sum, one) => sum + one, 0) / later.length;
  const bytes = (misses / ms.length) * slots.bytes;
  const linkMs = (bytes / linkBytesPerSecond) * 1e3;
  const result = {
    ...values,
    share,
    slots: slots.count,
    stepMs,
    tokensPerSecond: (batch / stepMs) * 1e3,
    hitRate: hits / (hits + misses),
    broughtBytesPerStep: bytes,
    linkBytesPerSecond,
    linkShare: linkMs / stepMs,
  };
  printResult(
    'decoding a mixture whose experts come when they are chosen',
    `${values.shape} ${share} % in ${slots.count} slots, batch ${batch}: ${stepMs.toFixed(2)} ms a step, ` +
      `${result.tokensPerSecond.toFixed(1)} tokens/s; ${percent(result.hitRate)} lay in slots, ${formatBytes(bytes)} came ` +
      `(${linkMs.toFixed(2)} ms at ${formatRate(linkBytesPerSecond)}: ${percent(result.linkShare)})`,
    result,
  );
}

/** Milliseconds of each step. */
async function run(engine: Engine): Promise<number[]> {
  const spent: number[] = [];
  let last = performance.now();
  const prompts = requests(batch, prompt, model.model.vocabSize);
  // The likeliest tokens of random weights soon repeat themselves, and their experts with them.
  const sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: rounds++ };
  await generate(
    engine.executor,
    prompts.map((one) => ({ ...one, sampling })),
    {
      batchSize: batch,
      maxNewTokens: tokens,
      stopTokens: new Set(),
      onPass: ({ phase }: PassProgress) => {
        const now = performance.now();
        if (phase === 'decode') spent.push(now - last);
        last = now;
      },
    },
  );
  return spent;
}

/** In all layers together. */
function countExperts(): number {
  return model.model.blocks.reduce((sum, { matrices }) => {
    const numbers = matrices.flatMap(({ key }) => expertOf(key)?.expert ?? []);
    return sum + new Set(numbers).size;
  }, 0);
}
