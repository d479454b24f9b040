// How near does a model that rests in shards on several GPUs come to the rate of its gathers? Decode steps beside the same bytes
// gathered when nothing is computed, in the same run.
//
// node dist/bench/gpu/shards.js [--shape opt-30b] [--type bfloat16] [--gpus 2] [--batch 8] [--prompt 32] [--tokens 17] [--blocks N]
//   [--device cuda|cpu]
//
// Every GPU computes a batch of its own, with one part of each layer at rest on each. The blocks are all of one block's bytes
// (repeated.ts). Gathers alone are timed before and after: every GPU copies the others' parts of one layer after the other.

import { parseArgs } from 'node:util';
import { formatBytes, formatRate, MiB, present } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { describePlacement } from '../../src/engine/placement.js';
import type { PassProgress } from '../../src/engine/scheduler.js';
import { median, percent, printResult, readShapeType } from '../common.js';
import { repeatedModel } from './repeated.js';
import { backendFor, devicesFor, requests } from './setting.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'opt-30b' },
    type: { type: 'string', default: 'bfloat16' },
    gpus: { type: 'string', default: '2' },
    batch: { type: 'string', default: '8' },
    prompt: { type: 'string', default: '32' },
    tokens: { type: 'string', default: '17' },
    blocks: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
  },
});
const kind = values.device === 'cpu' ? 'cpu' : 'cuda';
const [gpus, prompt, tokens] = [Number(values.gpus), Number(values.prompt), Number(values.tokens)];
/** What one GPU gathers of a layer at a time, about as much as of a block of 30 B parameters; less to try the code. */
const GATHERED_BYTES = kind === 'cuda' ? 1024 * MiB : 4 * MiB;
const GATHERS = 24;
/** Passes until all clocks and caches are as they stay. */
const WARM_PASSES = 4;

const model = await repeatedModel({
  shape: values.shape,
  type: readShapeType(values.type),
  ...(values.blocks ? { blocks: Number(values.blocks) } : {}),
});
try {
  let before = await gatherBytesPerSecond();
  for (const batch of values.batch.split(',').map(Number)) {
    const { decodeMs, gatheredBytes, placement } = await measure(batch);
    const after = await gatherBytesPerSecond();
    const bytesPerSecond = (before + after) / 2;
    before = after;
    const limitMs = (gatheredBytes / bytesPerSecond) * 1e3;
    printResult(
      `${values.shape} at rest in shards on ${gpus} devices`,
      `${placement}; batch ${batch} each: ${decodeMs.toFixed(2)} ms a step, in which each device gathers ${formatBytes(gatheredBytes)}; ` +
        `alone at ${formatRate(bytesPerSecond)} each that takes ${limitMs.toFixed(2)} ms: ${percent(limitMs / decodeMs)}`,
      { ...values, batch, decodeMs, gatheredBytes, bytesPerSecond, limitMs, share: limitMs / decodeMs },
    );
  }
} finally {
  model.remove();
}

async function measure(batch: number) {
  const engine = await Engine.open(model, {
    ...devicesFor(kind, gpus),
    offload: kind === 'cpu' ? 'dram' : 'auto',
    plan: { deviceResident: { layers: model.model.blocks.length + 64 }, restsInShards: true, expertSlots: 0 },
    workload: {
      sequences: batch,
      contextTokens: prompt + tokens,
      promptTokens: batch * prompt,
      newTokens: tokens,
      output: 'tokens',
    },
  });
  try {
    const ends: number[] = [];
    await generate(engine.executor, requests(batch * gpus, prompt, model.model.vocabSize), {
      batchSize: batch,
      maxNewTokens: tokens,
      stopTokens: new Set(),
      onPass: ({ phase }: PassProgress) => {
        if (phase === 'decode') ends.push(performance.now());
      },
    });
    const steady = ends.slice(WARM_PASSES);
    const decodeMs = median(steady.slice(1).map((ms, index) => ms - present(steady[index], 'a pass')));
    const bytes = engine.plan.layers.reduce(
      (sum, { inShards, layout }) => sum + (inShards ? layout.device.sizeBytes : 0),
      0,
    );
    return {
      decodeMs,
      gatheredBytes: (bytes * (gpus - 1)) / gpus,
      placement: describePlacement(engine.plan),
    };
  } finally {
    await engine.close();
  }
}

/** Bytes per second of the slowest device, while each copies the parts of all others. */
async function gatherBytesPerSecond(): Promise<number> {
  const backend = backendFor(kind, gpus);
  try {
    const { devices } = backend;
    const partBytes = Math.floor(GATHERED_BYTES / (gpus - 1) / MiB) * MiB;
    const parts = devices.map((device) => device.allocate(partBytes));
    const targets = devices.map((device) => device.allocate(partBytes * gpus));
    const spans = devices.map(({ gather }, g) => {
      const begun = gather.record();
      for (let round = 0; round < GATHERS; round++) {
        // Each begins with the next one's, so that no device is asked by all at once.
        for (let turn = 1; turn < gpus; turn++) {
          const peer = (g + turn) % gpus;
          const part = present(parts[peer], 'a part');
          gather.copy(present(targets[g], 'a buffer'), peer * partBytes, part, 0, partBytes);
        }
      }
      return [begun, gather.record()] as const;
    });
    await Promise.all(spans.map(([, ended]) => ended.reached()));
    // The first of all to begin is taken for every one: so nobody is timed while others wait.
    const startMs = Math.min(...spans.map(([begun]) => begun.timeMs));
    const endMs = Math.max(...spans.map(([, ended]) => ended.timeMs));
    return (GATHERS * partBytes * (gpus - 1)) / ((endMs - startMs) / 1e3);
  } finally {
    await backend.close();
  }
}
