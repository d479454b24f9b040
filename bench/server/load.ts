// Do 500 clients for five minutes lose nothing, double nothing and leave nothing behind, whatever they do?
//
// node dist/bench/server/load.js [--clients 500] [--seconds 300] [--seed 1] [--name FOLDER]

import { parseArgs } from 'node:util';
import { generate } from '../../src/engine/generate.js';
import type { GenerationRequest } from '../../src/engine/request.js';
import { GREEDY } from '../../src/engine/sampler.js';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { printResult } from '../common.js';
import { questionsOf, runLoad } from './load-run.js';
import { loopTimes } from './loop-time.js';
import { openEngine, openService } from './opened.js';

const { values } = parseArgs({
  options: {
    clients: { type: 'string', default: '500' },
    seconds: { type: 'string', default: '300' },
    seed: { type: 'string', default: '1' },
    name: { type: 'string', default: 'test/fixtures/models/shakespeare-bloom' },
  },
});
const SIZES = { sequences: 32, contextTokens: 128 };

const service = await openService(values.name, SIZES);
const expected = new Map<string, string>();
// The first minute fills what is kept; from then on memory is to stay where it is.
await runLoad(service, { clients: 50, requestsEach: 40, seed: 99 }, expected);
const before = memoryMib();
const startMs = performance.now();
const untilMs = startMs + 1e3 * Number(values.seconds);
const most = { clients: Number(values.clients), requestsEach: Number.POSITIVE_INFINITY, untilMs };
const samples: number[] = [];
const watch = setInterval(() => samples.push(memoryMib()), 5000);
const load = { ...most, seed: Number(values.seed) };
const { result, times } = await loopTimes(() => runLoad(service, load, expected));
const { asked, problems, newTokens } = result;
clearInterval(watch);
const seconds = (performance.now() - startMs) / 1e3;
await service.engine.whenIdle();
await service.close();
const differences = await otherThanGenerated();
const answers = Object.values(asked).reduce((sum, count) => sum + count, 0);
const line = `${answers} requests, ${problems.length} problems, ${differences.length} answers other than generate's`;
printResult('server-load', line, {
  clients: Number(values.clients),
  seconds,
  asked,
  new_tokens: newTokens,
  tokens_per_second: newTokens / seconds,
  questions: expected.size,
  problems,
  other_than_generate: differences,
  faults: service.faults,
  memory_mib: { before, at_most: Math.max(...samples, before), at_last: samples.at(-1) ?? before },
  event_loop_busy_ms: times.busyMs,
  event_loop_delay_ms: times.delayMs,
});
process.exitCode = problems.length + differences.length + service.faults.length > 0 ? 1 : 0;

function memoryMib(): number {
  return Math.round(process.memoryUsage.rss() / 2 ** 20);
}

/** Questions whose answer is another than what `generate` makes of them, each by itself. */
async function otherThanGenerated(): Promise<string[]> {
  const tokenizer = await loadTokenizer(values.name);
  const engine = await openEngine(values.name, SIZES);
  const questions = questionsOf(expected);
  const requests = await Promise.all(
    questions.map(
      async ({ prompt, max_tokens: maxNewTokens, temperature, seed }, index): Promise<GenerationRequest> => {
        const promptTokens = Int32Array.from(await tokenizer.encode(prompt));
        const sampling = temperature === 0 ? {} : { sampling: { ...GREEDY, temperature, seed } };
        return { index, randomIndex: 0, promptTokens, maxNewTokens, ...sampling };
      },
    ),
  );
  const stopTokens = new Set(tokenizer.eosTokenIds);
  const results = await generate(engine.executor, requests, { batchSize: 1, maxNewTokens: 1, stopTokens });
  await engine.close();
  return questions.flatMap((question, at) => {
    const { tokens = [], finishReason } = results[at] ?? {};
    const context = requests[at]?.promptTokens ?? [];
    const given = tokenizer.decode([...context]);
    const text = tokenizer.decode([...context, ...tokens]).slice(given.length);
    const key = JSON.stringify(question);
    return expected.get(key) === `${finishReason}: ${text}` ? [] : [key];
  });
}
