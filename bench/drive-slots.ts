// How much of the drive does decoding a mixture use whose experts are read when they are chosen? Steps at batch 1 against the same ring
// reading as many bytes alone.
//
// node dist/bench/drive-slots.js [--shape qwen3-30b-a3b] [--blocks 6] [--vocabulary 8192] [--dir out/bench] [--share 15]
//   [--tokens 16] [--runs 6] [--threads N] [--prompt 512] [--device cpu|cuda|virtual] [--dram_share 25]
//
// --share percent of the experts have slots in DRAM where the CPU computes. On a GPU, or a virtual device of the CPU with memory of its
// own, they have slots there, and --dram_share percent have slots in DRAM behind these. A prompt of --prompt tokens goes first: whole layers from the drive. Their order
// alternates, since rates of a shared drive drift by more than what is to be shown.

import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { formatBytes, formatRate, present } from '../offload/index.js';
import { Engine } from '../src/engine/engine.js';
import { generate } from '../src/engine/generate.js';
import { openModel } from '../src/engine/open-model.js';
import type { PassProgress } from '../src/engine/scheduler.js';
import { dummyCheckpoint, median, percent, printResult } from './common.js';
import { countExperts, spreadRouting } from './gpu/repeated.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'qwen3-30b-a3b' },
    blocks: { type: 'string', default: '6' },
    vocabulary: { type: 'string', default: '8192' },
    dir: { type: 'string', default: 'out/bench' },
    share: { type: 'string', default: '15' },
    dram_share: { type: 'string', default: '25' },
    device: { type: 'string', default: 'cpu' },
    tokens: { type: 'string', default: '16' },
    prompt: { type: 'string', default: '512' },
    runs: { type: 'string', default: '6' },
    threads: { type: 'string', default: String(cpus().length) },
  },
});
const { shape, dir } = values;
const [blocks, vocabulary, tokens, prompt, runs] = [
  values.blocks,
  values.vocabulary,
  values.tokens,
  values.prompt,
  values.runs,
].map(Number) as [number, number, number, number, number];
const RING_MS = 4000;

const cut = { num_hidden_layers: blocks, vocab_size: vocabulary };
const folder = await dummyCheckpoint(shape, `${dir}/${shape}-${blocks}-blocks`, 'bfloat16', cut);
await spreadRouting(folder);
const opened = await openModel(folder);
const experts = countExperts(opened.model);
const slotsFor = (percentage: string) => Math.round((experts * Number(percentage)) / 100);
const expertSlots = slotsFor(values.share);
const isApart = values.device !== 'cpu';
const engine = await Engine.open(opened, {
  ...(values.device === 'cuda' ? { device: 'cuda' } : {}),
  offload: isApart ? 'nvme' : 'auto',
  plan: isApart ? { expertSlots, dramSlots: slotsFor(values.dram_share) } : { expertSlots },
  cpu: { threads: Number(values.threads), ...(values.device === 'virtual' ? { virtualDevices: 1 } : {}) },
  workload: {
    sequences: 1,
    contextTokens: prompt + tokens + 1,
    promptTokens: prompt,
    output: 'tokens',
  },
});
const slots = present(engine.executor.plan.slots, 'slots of the plan');

interface Steps {
  readonly stepMs: number;
  readonly bytes: number;
  readonly readMs: number;
  readonly hitRate: number;
  /** A share of all that were chosen; 0 where the CPU computes on the slots. */
  readonly dramHitRate: number;
}

let seed = 0;
/** Steps of one text; the first one of a run brings what is common. */
async function decode(): Promise<Steps> {
  const ends: number[] = [];
  let before: ReturnType<typeof engine.executor.slotCounts> | undefined;
  const promptTokens = Int32Array.from(
    { length: 4 },
    (_, index) => (101 + 977 * (index + 4 * seed)) % vocabulary,
  );
  const sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: ++seed };
  await generate(engine.executor, [{ index: 0, promptTokens, sampling }], {
    batchSize: 1,
    maxNewTokens: tokens + 1,
    stopTokens: new Set(),
    onPass: ({ phase }: PassProgress) => {
      ends.push(performance.now());
      if (phase === 'decode') return;
      before = engine.executor.slotCounts();
    },
  });
  const [first, last] = [
    present(await before, 'counts'),
    present(await engine.executor.slotCounts(), 'counts'),
  ];
  const [hits, misses] = [last.hits - first.hits, last.misses - first.misses];
  return {
    stepMs: (present(ends.at(-1), 'the last') - present(ends[0], 'the first')) / (ends.length - 1),
    bytes: (last.read.bytes - first.read.bytes) / (ends.length - 1),
    readMs: (last.read.busyMs - first.read.busyMs) / (ends.length - 1),
    hitRate: hits / (hits + misses),
    dramHitRate: (last.inDram - first.inDram) / (hits + misses),
  };
}

/** Milliseconds of a pass over a prompt, whose layers pass by whole. */
async function prefill(): Promise<number> {
  const promptTokens = Int32Array.from({ length: prompt }, (_, index) => (1000 + index * 7919) % vocabulary);
  const startMs = performance.now();
  await generate(engine.executor, [{ index: 0, promptTokens }], {
    batchSize: 1,
    maxNewTokens: 1,
    stopTokens: new Set(),
  });
  return performance.now() - startMs;
}

const layerBytes = engine.plan.layers.reduce(
  (sum, { tier, layout }) => sum + (tier === 'nvme' ? layout.host.sizeBytes : 0),
  0,
);
const ring = async () => (await engine.executor.measureReadLimit(RING_MS)).bytesPerSecond;

// The first read into a buffer gets its pages from the system.
await ring();
await decode();
const pairs: (Steps & { ringBytesPerSecond: number; ratio: number; whileReading: number })[] = [];
for (let run = 0; run < runs; run++) {
  const first = run % 2 === 0 ? await ring() : undefined;
  const steps = await decode();
  const ringBytesPerSecond = first ?? (await ring());
  const ringMs = (steps.bytes / ringBytesPerSecond) * 1e3;
  const [ratio, whileReading] = [ringMs / steps.stepMs, ringMs / steps.readMs];
  pairs.push({ ...steps, ringBytesPerSecond, ratio, whileReading });
  process.stderr.write(
    `pair ${run + 1}: ${steps.stepMs.toFixed(1)} ms a step for ${formatBytes(steps.bytes)}, ${percent(steps.hitRate)} lay in slots` +
      `${isApart ? ` of the device, ${percent(steps.dramHitRate)} in slots of DRAM` : ''}; the ring ` +
      `alone ${formatRate(ringBytesPerSecond)}: ${percent(ratio)}, and ${percent(whileReading)} while it reads\n`,
  );
}
const prefills: number[] = [];
for (let run = 0; run < Math.ceil(runs / 2); run++) {
  const limit = await ring();
  prefills.push(((layerBytes / (await prefill())) * 1e3) / limit);
}
await engine.close();
const ratio = median(pairs.map((pair) => pair.ratio));
printResult(
  'experts from the drive',
  `${shape}, ${blocks} blocks, ${slots.count} of ${slots.keys} experts in slots` +
    `${slots.behind ? `, ${slots.behind.count} in slots of DRAM` : ''}, batch 1: ${percent(ratio)} of the ring reading the same ` +
    `bytes (median of ${runs} pairs), ${percent(median(pairs.map((pair) => pair.whileReading)))} while it reads; a prompt of ${prompt} ` +
    `tokens ${percent(median(prefills))}`,
  { ...values, slots: slots.count, dramSlots: slots.behind?.count ?? null, ratio, prefill: prefills, pairs },
);
