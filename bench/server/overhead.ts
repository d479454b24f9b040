// How many tokens a second come through the server at batch 32, beside `generate` in the same run? And is the event loop free?
//
// node dist/bench/server/overhead.js [--shape NAME] [--cut JSON] [--runs 3] [--tokens 32] [--batch 32]

import { cpSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { generate } from '../../src/engine/generate.js';
import { dummyCheckpoint, median, percent, printResult } from '../common.js';
import { type LoopTimes, loopTimes } from './loop-time.js';
import { openEngine, openService } from './opened.js';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'bloom-560m' },
    cut: { type: 'string', default: '{"n_layer":6,"num_hidden_layers":6,"vocab_size":2048}' },
    dir: { type: 'string', default: 'out/bench' },
    runs: { type: 'string', default: '3' },
    tokens: { type: 'string', default: '32' },
    batch: { type: 'string', default: '32' },
  },
});
const [batch, newTokens] = [Number(values.batch), Number(values.tokens)];
const TOKENIZER = 'test/fixtures/models/shakespeare-bloom';
const SIZES = { sequences: batch, contextTokens: 64 + newTokens };

/** Random weights of that shape, with words of a small tokenizer. */
async function modelFolder(): Promise<string> {
  const made = await dummyCheckpoint(
    values.shape,
    join(values.dir, 'server-overhead'),
    'bfloat16',
    JSON.parse(values.cut),
  );
  const folder = mkdtempSync(join(tmpdir(), 'zi-overhead-'));
  cpSync(made, folder, { recursive: true });
  for (const file of ['tokenizer.json', 'tokenizer_config.json'])
    cpSync(join(TOKENIZER, file), join(folder, file));
  return folder;
}

const folder = await modelFolder();
const prompts = Array.from({ length: batch }, (_, at) =>
  Array.from({ length: 16 }, (_, token) => 5 + ((at * 31 + token * 7) % 2000)),
);

async function byGenerate(): Promise<number> {
  const engine = await openEngine(folder, SIZES);
  const requests = prompts.map((prompt, index) => ({ index, promptTokens: Int32Array.from(prompt) }));
  const options = { batchSize: batch, maxNewTokens: newTokens, stopTokens: new Set<number>() };
  await generate(engine.executor, requests.slice(0, 2), options);
  const startMs = performance.now();
  const results = await generate(engine.executor, requests, options);
  const seconds = (performance.now() - startMs) / 1e3;
  await engine.close();
  return results.reduce((sum, { tokens }) => sum + tokens.length, 0) / seconds;
}

const loops: LoopTimes[] = [];

/** @param stream as most clients ask */
async function byServer(stream: boolean): Promise<number> {
  const service = await openService(folder, SIZES);
  const ask = (prompt: readonly number[]) =>
    fetch(`${service.address}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt, max_tokens: newTokens, temperature: 0, ignore_eos: true, stream }),
    }).then((response) => response.text());
  await Promise.all(prompts.slice(0, 2).map((prompt) => ask(prompt)));
  const startMs = performance.now();
  const { times } = await loopTimes(() => Promise.all(prompts.map((prompt) => ask(prompt))));
  const seconds = (performance.now() - startMs) / 1e3;
  loops.push(times);
  await service.close();
  return (batch * newTokens) / seconds;
}

const runs: { readonly generate: number; readonly whole: number; readonly streamed: number }[] = [];
for (let run = 0; run < Number(values.runs); run++) {
  runs.push({ generate: await byGenerate(), whole: await byServer(false), streamed: await byServer(true) });
}
const shareWhole = median(runs.map(({ generate, whole }) => whole / generate));
const shareStreamed = median(runs.map(({ generate, streamed }) => streamed / generate));
const line = `${percent(shareWhole)} of generate's tokens a second whole, ${percent(shareStreamed)} streamed`;
printResult('server-overhead', line, {
  batch,
  new_tokens: newTokens,
  runs,
  share_whole: shareWhole,
  share_streamed: shareStreamed,
  event_loop_busy_ms: Math.max(...loops.map(({ busyMs }) => busyMs)),
  event_loop_delay_ms: Math.max(...loops.map(({ delayMs }) => delayMs)),
});
