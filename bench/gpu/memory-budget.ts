// Does a run stay within --gpu_memory as the driver counts? Several budgets, each with what rests and streams as it fits.
//
// node dist/bench/gpu/memory-budget.js [--shape opt-1.3b] [--type bfloat16] [--cut '{"num_hidden_layers":4}'] [--dir out/bench]
//   [--batch 8] [--prompt 512] [--budgets 1GiB,4GiB]
// `--cut` is what of the shape is otherwise: mixtures are too large whole. With --budgets '' the checkpoint is made, and nothing else.
// The context's own cost, which is there before anything is planned, is not part of a budget. Status 1: one was exceeded.

import { parseArgs } from 'node:util';
import { formatBytes, GiB, parseBytes } from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { describePlacement } from '../../src/engine/placement.js';
import { dummyCheckpoint, printResult, readShapeType } from '../common.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'opt-1.3b' },
    type: { type: 'string', default: 'bfloat16' },
    cut: { type: 'string', default: '{}' },
    dir: { type: 'string', default: 'out/bench' },
    batch: { type: 'string', default: '8' },
    prompt: { type: 'string', default: '512' },
    tokens: { type: 'string', default: '6' },
    budgets: { type: 'string', default: '1GiB,2GiB,4GiB,16GiB' },
  },
});
const [batch, promptTokens, newTokens] = [values.batch, values.prompt, values.tokens].map(Number) as [
  number,
  number,
  number,
];
const folder = `${values.dir}/${[values.shape, ...Object.values(JSON.parse(values.cut)), values.type].join('-')}`;
const opened = await openModel(
  await dummyCheckpoint(values.shape, folder, readShapeType(values.type), JSON.parse(values.cut)),
);
// Makes the context.
const idleBytes = native().cudaFreeBytes(0);
const results = [];
for (const text of values.budgets.split(',').filter((each) => each !== '')) {
  const budgetBytes = parseBytes(text, '--budgets');
  const result = await run(budgetBytes);
  results.push({ budgetBytes, ...result, exceeded: result.usedBytes > budgetBytes });
  process.stderr.write(
    `${text}: planned ${formatBytes(result.plannedBytes)}, used ${formatBytes(result.usedBytes)}, ` +
      `${formatBytes(result.leftBehindBytes)} still taken after it; ${result.placement}\n`,
  );
}
printResult(
  `memory of the GPU, ${values.shape} in ${values.type}`,
  results
    .map(({ budgetBytes, usedBytes }) => `${formatBytes(usedBytes)} of ${formatBytes(budgetBytes)}`)
    .join(', '),
  { ...values, results },
);
process.exitCode = results.some(({ exceeded }) => exceeded) ? 1 : 0;

async function run(deviceBudgetBytes: number) {
  const engine = await Engine.open(opened, {
    device: 'cuda',
    offload: 'auto',
    dramBudgetBytes: 64 * GiB,
    deviceBudgetBytes,
    workload: {
      sequences: batch,
      contextTokens: promptTokens + newTokens,
      promptTokens: batch * promptTokens,
      output: 'tokens',
    },
  });
  let leastFree = native().cudaFreeBytes(0);
  const requests = Array.from({ length: batch }, (_, index) => ({
    index,
    promptTokens: Int32Array.from(
      { length: promptTokens },
      (__, at) => 1000 + ((index * 131 + at * 7919) % 20000),
    ),
    sampling: {
      temperature: 0.7,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      seed: 1,
    },
  }));
  const { plan } = engine;
  try {
    await generate(engine.executor, requests, {
      batchSize: batch,
      maxNewTokens: newTokens,
      stopTokens: new Set(),
      onPass: () => {
        leastFree = Math.min(leastFree, native().cudaFreeBytes(0));
      },
    });
  } finally {
    await engine.close();
  }
  const plannedBytes = plan.terms.reduce((sum, { tier, bytes }) => sum + (tier === 'gpu' ? bytes : 0), 0);
  return {
    plannedBytes,
    usedBytes: idleBytes - leastFree,
    leftBehindBytes: idleBytes - native().cudaFreeBytes(0),
    placement: describePlacement(plan),
    terms: plan.terms.filter(({ tier }) => tier === 'gpu'),
  };
}
