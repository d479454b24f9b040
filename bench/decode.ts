// How near is decode from DRAM to reading the stored weights once? Batch 1, weights cold; of a mixture, only what is used.
//
// node dist/bench/decode.js [--dir out/bench] [--runs 9] [--cases bfloat16,int4,experts | families]

import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { DTYPE_BYTES, formatBytes, formatRate, present } from '../offload/index.js';
import { native } from '../offload/port/native.js';
import { Engine } from '../src/engine/engine.js';
import { generate } from '../src/engine/generate.js';
import { openModel } from '../src/engine/open-model.js';
import type { ShapeType } from '../src/engine/shape-tensors.js';
import { dummyCheckpoint, median, printResult } from './common.js';

interface Case {
  readonly shape: string;
  readonly type: ShapeType;
  /** Share of the experts that a token uses. */
  readonly expertShare: number;
  /** What is other than in the published shape: fewer layers, experts and tokens, each of them as wide as it is. */
  readonly cut?: Readonly<Record<string, unknown>>;
}

const DENSE = ['bfloat16', 'float16', 'fp8', 'int8', 'int4', 'mxfp4'] as const;
const CASES: Readonly<Record<string, Case>> = {
  ...Object.fromEntries(DENSE.map((type) => [type, { shape: 'llama-0.85b', type, expertShare: 1 }])),
  experts: { shape: 'qwen3-moe-0.9b', type: 'bfloat16', expertShare: 8 / 128 },
  'experts-int4': { shape: 'qwen3-moe-0.9b', type: 'int4', expertShare: 8 / 128 },
};
const FAMILIES: Readonly<Record<string, Case>> = {
  'gpt-oss': {
    shape: 'gpt-oss-20b',
    type: 'mxfp4',
    expertShare: 4 / 32,
    cut: {
      num_hidden_layers: 3,
      layer_types: ['sliding_attention', 'full_attention', 'sliding_attention'],
      vocab_size: 16384,
    },
  },
  'deepseek-v3': {
    shape: 'deepseek-v3',
    type: 'fp8',
    expertShare: 8 / 16,
    cut: {
      num_hidden_layers: 2,
      first_k_dense_replace: 1,
      n_routed_experts: 16,
      n_group: 4,
      topk_group: 2,
      vocab_size: 16384,
    },
  },
  'qwen3-next': {
    shape: 'qwen3-next-80b-a3b',
    type: 'bfloat16',
    expertShare: 10 / 64,
    cut: { num_hidden_layers: 4, num_experts: 64, vocab_size: 16384 },
  },
  'gemma-3': {
    shape: 'gemma-3-27b',
    type: 'bfloat16',
    expertShare: 1,
    cut: { num_hidden_layers: 2, vocab_size: 16384 },
  },
  'minimax-m2': {
    shape: 'minimax-m2',
    type: 'fp8',
    expertShare: 8 / 32,
    cut: { num_hidden_layers: 3, num_local_experts: 32, vocab_size: 16384 },
  },
  'glm-4.5-air': {
    shape: 'glm-4.5-air',
    type: 'bfloat16',
    expertShare: 8 / 32,
    cut: { num_hidden_layers: 2, n_routed_experts: 32, vocab_size: 16384 },
  },
};
const NEW_TOKENS = 12;
const PROMPT = Int32Array.from({ length: 4 }, (_, index) => 100 + index);
const THREADS = availableParallelism();
/** As much as each thread must read for the rate to last. */
const READ_BYTES = THREADS * 2 ** 28;

const { values } = parseArgs({
  options: {
    dir: { type: 'string', default: 'out/bench' },
    runs: { type: 'string', default: '9' },
    cases: { type: 'string', default: Object.keys(CASES).join(',') },
  },
});
const runs = Number(values.runs);

const named = values.cases === 'families' ? Object.keys(FAMILIES) : values.cases.split(',');
for (const key of named) {
  const { shape, type, expertShare, cut } = present(CASES[key] ?? FAMILIES[key], `case ${key}`);
  const name = `${shape}${type === 'bfloat16' ? '' : `-${type}`}${cut === undefined ? '' : '-cut'}`;
  const opened = await openModel(await dummyCheckpoint(shape, join(values.dir, name), type, cut));
  const engine = await Engine.open(opened, {
    offload: 'dram',
    workload: {
      sequences: 1,
      contextTokens: PROMPT.length + NEW_TOKENS,
      promptTokens: PROMPT.length,
      output: 'tokens',
    },
  });
  const weights = engine.plan.layers.flatMap(({ layout }) => layout.layer.tensors);
  const hasHead = weights.some(({ key }) => /lm_head/.test(key));
  let [storedBytes, usedBytes] = [0, 0];
  for (const tensor of weights) {
    const bytes = tensor.shape.reduce((product, size) => product * size, DTYPE_BYTES[tensor.dtype]);
    storedBytes += bytes;
    if (hasHead && /embed_tokens/.test(tensor.key)) continue; // one row of it
    usedBytes += /\bexperts\b/.test(tensor.key) ? bytes * expertShare : bytes;
  }
  await decodeMs(engine); // loads the weights
  const pairs: { readonly bytesPerSecond: number; readonly limit: number }[] = [];
  for (let run = 0; run < runs; run++) {
    const before = native().measureReadBandwidth(READ_BYTES, THREADS);
    const ms = await decodeMs(engine);
    const limit = (before + native().measureReadBandwidth(READ_BYTES, THREADS)) / 2;
    pairs.push({ bytesPerSecond: (usedBytes / ms) * 1e3, limit });
  }
  await engine.close();
  const ratio = median(pairs.map(({ bytesPerSecond, limit }) => bytesPerSecond / limit));
  const reached = median(pairs.map(({ bytesPerSecond }) => bytesPerSecond));
  printResult(
    `decode, ${key}`,
    `${name}: ${formatBytes(usedBytes)} of ${formatBytes(storedBytes)} a token at ${formatRate(reached)}, ` +
      `${(ratio * 100).toFixed(0)} % of reading memory (median of ${runs} pairs); ` +
      `all of them in that time would be ${((ratio * storedBytes) / usedBytes).toFixed(1)} times that limit`,
    { shape, type, storedBytes, usedBytes, ratio, pairs },
  );
}

/** Median milliseconds of a decode pass. */
async function decodeMs(engine: Engine): Promise<number> {
  const passes: number[] = [];
  let last = performance.now();
  await generate(engine.executor, [{ index: 0, promptTokens: PROMPT }], {
    batchSize: 1,
    maxNewTokens: NEW_TOKENS,
    stopTokens: new Set(),
    onPass: ({ phase }) => {
      const now = performance.now();
      if (phase === 'decode') passes.push(now - last);
      last = now;
    },
  });
  return median(passes);
}
