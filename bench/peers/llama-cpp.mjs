// llama.cpp's speed on a GGUF file: one JSON line. Arguments: file, prompt tokens, new tokens, sequences, threads, temperature.
//
// Prefill is the evaluation of one prompt; decode is all sequences generating at once, batched by the library.

import { getLlama, LlamaLogLevel } from 'node-llama-cpp';

const [path, promptTokens, newTokens, sequences, threads, temperature] = process.argv
  .slice(2)
  .map((value, index) => (index === 0 ? value : Number(value)));
const llama = await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: threads });
const model = await llama.loadModel({ modelPath: path, gpuLayers: 0, useMmap: true });
const context = await model.createContext({
  contextSize: promptTokens + newTokens + 8,
  batchSize: Math.max(512, sequences),
  sequences,
  threads,
});
const prompt = Array.from({ length: promptTokens }, (_, index) => 1000 + ((index * 7919) % 20000));

const states = Array.from({ length: sequences }, () => context.getSequence());
// The first evaluation also pages the file in; a short one keeps that out of the prefill figure.
await states[0].evaluateWithoutGeneratingNewTokens(prompt.slice(0, 8));
await states[0].clearHistory();
const beforePrefill = performance.now();
await states[0].evaluateWithoutGeneratingNewTokens(prompt);
const prefillMs = performance.now() - beforePrefill;

await Promise.all(states.slice(1).map((state) => state.evaluateWithoutGeneratingNewTokens(prompt.slice(0, 16))));
const beforeDecode = performance.now();
await Promise.all(
  states.map(async (state, index) => {
    let made = 0;
    for await (const _ of state.evaluate([2000 + index], { temperature, topK: 0, topP: 1, yieldEogToken: true })) {
      made++;
      if (made === newTokens) break;
    }
  }),
);
const decodeMs = performance.now() - beforeDecode;
process.stdout.write(
  `${JSON.stringify({
    prefill_tokens_per_second: (promptTokens / prefillMs) * 1e3,
    decode_tokens_per_second: ((newTokens * sequences) / decodeMs) * 1e3,
  })}\n`,
);
process.exit(0);
