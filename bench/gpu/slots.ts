// How fast does a mixture decode whose experts come when they are chosen? Steps at several numbers of slots, beside the bytes that
// came and what the link needs for them.
//
// node dist/bench/gpu/slots.js [--shape gpt-oss-120b] [--type mxfp4] [--blocks N] [--slots 11,25,40] [--batch 1,4] [--prompt 64]
//   [--tokens 96] [--skew 1] [--vocabulary N] [--cpu_compute off,auto]
//   [--device cuda|cpu]
//
// --slots are shares of all experts in percent. All blocks are of one block's bytes (repeated.ts), each in a place of its own.
// Routing is uniform, so that about the same share of chosen experts lies in slots, and the line says by how much more; with --skew
// the router's biases make experts as unlike as words are. Times and bytes are means of the later half of the steps, since misses vary. The
// limits of the missing bytes are the link alone, and the link with a plain reader beside it, before and after.

import { createHash } from 'node:crypto';
import { parseArgs } from 'node:util';
import { formatBytes, formatRate, present, type TogetherMeasurement } from '../../offload/index.js';
import type { SlotCounts } from '../../offload/run/device-slots.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { describePlacement } from '../../src/engine/placement.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { percent, printResult, readShapeType } from '../common.js';
import { countExperts, repeatedModel } from './repeated.js';
import { devicesFor, measureBeside, measureRates, requests } from './setting.js';

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
    cpu_compute: { type: 'string', default: 'off,auto' },
    device: { type: 'string', default: 'cuda' },
  },
});
const kind = values.device === 'cpu' ? 'cpu' : 'cuda';
const [prompt, tokens] = [values.prompt, values.tokens].map(Number) as [number, number];
const batches = values.batch.split(',').map(Number);
const most = Math.max(...batches);
const model = await repeatedModel({
  shape: values.shape,
  type: readShapeType(values.type),
  skew: Number(values.skew),
  ...(values.blocks ? { blocks: Number(values.blocks) } : {}),
  ...(values.vocabulary ? { vocabulary: Number(values.vocabulary) } : {}),
});
const { linkBytesPerSecond } = await measureRates(kind);
/** What others do on the host changes it within minutes: so it is measured before and after what it limits. */
let before = await measureLimit();
const workload = {
  sequences: most,
  contextTokens: prompt + tokens,
  promptTokens: most * prompt,
  output: 'tokens',
} as const;

const experts = countExperts(model.model);
let rounds = 0;
for (const share of values.slots.split(',').map(Number)) {
  const expertSlots = Math.max(1, Math.round((experts * share) / 100));
  for (const compute of values.cpu_compute.split(',')) {
    const cpuCompute = compute === 'only' || compute === 'off' ? compute : 'auto';
    const engine = await Engine.open(model, {
      ...devicesFor(kind, 1),
      offload: 'dram',
      plan: { expertSlots, cpuCompute },
      workload,
    });
    const measured: Measured[] = [];
    try {
      process.stderr.write(`${describePlacement(engine.plan)}\n`);
      for (const batch of batches) measured.push(await measure(engine, { share, batch, cpuCompute }));
    } finally {
      await engine.close();
    }
    const after = await measureLimit();
    const together = {
      linkBytesPerSecond: (before.linkBytesPerSecond + after.linkBytesPerSecond) / 2,
      hostBytesPerSecond: (before.hostBytesPerSecond + after.hostBytesPerSecond) / 2,
    };
    for (const one of measured) print(one, together);
    before = after;
  }
}
model.remove();

interface Setting {
  readonly share: number;
  readonly batch: number;
  readonly cpuCompute: string;
}

async function measureLimit(): Promise<TogetherMeasurement> {
  const rates = await measureBeside(kind);
  const [link, read] = [rates.linkBytesPerSecond, rates.hostBytesPerSecond].map(formatRate);
  process.stderr.write(`link alone ${formatRate(linkBytesPerSecond)}; beside a reader ${link} and ${read}\n`);
  return rates;
}

async function measure(engine: Engine, setting: Setting) {
  const slots = present(engine.executor.plan.slots, 'slots of the plan');
  await run(engine, setting.batch);
  const later = await run(engine, setting.batch);
  return { setting, slots, later, shareRates: engine.executor.shareRates() };
}
type Measured = Awaited<ReturnType<typeof measure>>;

function print({ setting, slots, later, shareRates }: Measured, together: TogetherMeasurement): void {
  const { share, batch, cpuCompute } = setting;
  const { stepMs, counts, texts } = later;
  const { hits, misses, computedByHost, steps } = counts;
  const hostBytes = (computedByHost / steps) * slots.bytes;
  const bytes = (misses / steps) * slots.bytes;
  const linkMs = (bytes / linkBytesPerSecond) * 1e3;
  const togetherBytesPerSecond = together.linkBytesPerSecond + together.hostBytesPerSecond;
  const togetherMs = (bytes / togetherBytesPerSecond) * 1e3;
  const result = {
    ...values,
    batch,
    share,
    cpuCompute,
    uniformHitRate: slots.count / slots.keys,
    slots: slots.count,
    texts,
    stepMs,
    tokensPerSecond: (batch / stepMs) * 1e3,
    hitRate: hits / (hits + misses),
    missingBytesPerStep: bytes,
    hostBytesPerStep: hostBytes,
    shareRates,
    linkBytesPerSecond,
    linkShare: linkMs / stepMs,
    together,
    togetherShare: togetherMs / stepMs,
  };
  printResult(
    'decoding a mixture whose experts come when they are chosen',
    `${values.shape} ${share} % in ${slots.count} slots, batch ${batch}, CPU ${cpuCompute}: ${stepMs.toFixed(2)} ms a step, ` +
      `${result.tokensPerSecond.toFixed(1)} tokens/s; ${percent(result.hitRate)} lay in slots (slots for ${percent(result.uniformHitRate)}), ` +
      `${formatBytes(bytes)} lay in none, of which the CPU computed ${formatBytes(hostBytes)} (${linkMs.toFixed(2)} ms at ${formatRate(linkBytesPerSecond)}: ${percent(result.linkShare)}; ` +
      `${togetherMs.toFixed(2)} ms at ${formatRate(togetherBytesPerSecond)}: ${percent(result.togetherShare)})`,
    result,
  );
}

interface LaterHalf {
  /** On average. */
  readonly stepMs: number;
  /** A hash of what was made: the same where nothing but time differs. */
  readonly texts: string;
  /** In all of its steps together. */
  readonly counts: SlotCounts & { readonly steps: number };
}

/** Misses vary, and slots come to hold what is common only after a while: the later half of the steps is what counts. */
async function run(engine: Engine, batch: number): Promise<LaterHalf> {
  const firstStep = tokens >> 1;
  const ends: number[] = [];
  let before: Promise<SlotCounts | undefined> | undefined;
  const prompts = requests(batch, prompt, model.model.vocabSize);
  // The likeliest tokens of random weights soon repeat themselves, and their experts with them.
  const sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: rounds++ };
  const results = await generate(
    engine.executor,
    prompts.map((one) => ({ ...one, sampling })),
    {
      batchSize: batch,
      maxNewTokens: tokens,
      stopTokens: new Set(),
      onPass: ({ phase }: PassProgress) => {
        if (phase !== 'decode') return;
        ends.push(performance.now());
        // Read behind this step's work, before the next one's is queued.
        if (ends.length === firstStep) before = engine.executor.slotCounts();
      },
    },
  );
  const [first, last] = [
    present(await before, 'counts'),
    present(await engine.executor.slotCounts(), 'counts'),
  ];
  const steps = ends.length - firstStep;
  const hash = createHash('sha256');
  for (const { tokens: made } of results) hash.update(made.join());
  return {
    texts: hash.digest('hex').slice(0, 16),
    stepMs:
      (present(ends.at(-1), 'the end of a step') - present(ends[firstStep - 1], 'the end of a step')) / steps,
    counts: {
      hits: last.hits - first.hits,
      misses: last.misses - first.misses,
      computedByHost: last.computedByHost - first.computedByHost,
      inDram: last.inDram - first.inDram,
      read: last.read,
      steps,
    },
  };
}
