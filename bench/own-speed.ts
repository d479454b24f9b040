// This runtime's speed on a checkpoint: one JSON line, the counterpart of peers/llama-cpp.mjs.
//
// Arguments: folder, prompt tokens, new tokens, sequences, threads, temperature, DRAM budget in bytes (0: what is available)

import { Engine } from '../src/engine/engine.js';
import { generate } from '../src/engine/generate.js';
import { openModel } from '../src/engine/open-model.js';
import type { PassProgress } from '../src/engine/scheduler.js';

const [folder = '', ...counts] = process.argv.slice(2);
const [promptTokens = 256, newTokens = 16, sequences = 1, threads = 2, temperature = 0, budget = 0] =
  counts.map(Number);
const prompt = Int32Array.from({ length: promptTokens }, (_, index) => 1000 + ((index * 7919) % 20000));

const engine = await Engine.open(await openModel(folder), {
  offload: 'auto',
  ...(budget > 0 ? { dramBudgetBytes: budget } : {}),
  cpu: { threads },
  workload: {
    sequences,
    contextTokens: promptTokens + newTokens + 8,
    promptTokens: Math.max(promptTokens, sequences * 16),
    output: 'tokens',
  },
});

const drawn =
  temperature > 0
    ? { sampling: { temperature, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 1 } }
    : {};

/** Milliseconds of prefill, and of the decode passes together. */
async function timed(
  prompts: readonly Int32Array[],
  tokens: number,
): Promise<{ prefillMs: number; decodeMs: number }> {
  let last = performance.now();
  const spent = { prefill: 0, mixed: 0, decode: 0 };
  await generate(
    engine.executor,
    prompts.map((promptIds, index) => ({ index, promptTokens: promptIds, ...drawn })),
    {
      batchSize: sequences,
      maxNewTokens: tokens,
      stopTokens: new Set(),
      onPass: ({ phase }: PassProgress) => {
        const now = performance.now();
        spent[phase] += now - last;
        last = now;
      },
    },
  );
  return { prefillMs: spent.prefill, decodeMs: spent.decode };
}

await timed([prompt.subarray(0, 8)], 1); // fills the DRAM tier
const { prefillMs } = await timed([prompt], 1);
const short = Array.from({ length: sequences }, () => prompt.subarray(0, 16));
const { decodeMs } = await timed(short, newTokens + 1);
await engine.close();
process.stdout.write(
  `${JSON.stringify({
    prefill_tokens_per_second: (promptTokens / prefillMs) * 1e3,
    decode_tokens_per_second: ((newTokens * sequences) / decodeMs) * 1e3,
  })}\n`,
);
