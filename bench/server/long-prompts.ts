// How long is the event loop held up by the longest requests of every kind, with a vocabulary of usual size?
//
// node dist/bench/server/long-prompts.js [--megabytes 4] [--messages 5000] [--tokens 150000] [--runs 3]

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { median, printResult } from '../common.js';
import { type LoopTimes, loopTimes } from './loop-time.js';
import { openService } from './opened.js';

const { values } = parseArgs({
  options: {
    megabytes: { type: 'string', default: '4' },
    messages: { type: 'string', default: '5000' },
    tokens: { type: 'string', default: '150000' },
    runs: { type: 'string', default: '3' },
  },
});
const MODEL = 'test/fixtures/models/shakespeare-bloom';
const TEMPLATE =
  '{% for m in messages %}{% if m.content is string %}{% set content = m.content | trim %}{% endif %}' +
  "{{ '<|' + m.role + '|>' + content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/** The small model with words that it never says, as many as published vocabularies have. */
function modelFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'zi-long-prompts-'));
  cpSync(MODEL, folder, { recursive: true });
  const file = join(folder, 'tokenizer.json');
  const tokenizer = JSON.parse(readFileSync(file, 'utf8'));
  const { vocab } = tokenizer.model;
  for (let id = Object.keys(vocab).length; id < Number(values.tokens); id++) vocab[`Ġword${id}`] = id;
  writeFileSync(file, JSON.stringify(tokenizer));
  writeFileSync(join(folder, 'chat_template.jinja'), TEMPLATE);
  return folder;
}

/** Clients have an event loop of their own. */
const CLIENT = `
  const { parentPort, workerData: { url, body } } = require('node:worker_threads');
  fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
    .then(async (response) => parentPort.postMessage({ status: response.status, text: (await response.text()).slice(0, 200) }));
`;

interface Answer {
  readonly status: number;
  readonly text: string;
}

function ask(url: string, body: string): Promise<Answer> {
  const worker = new Worker(CLIENT, { eval: true, workerData: { url, body } });
  return new Promise((resolve, reject) => {
    worker.on('message', resolve);
    worker.on('error', reject);
  });
}

const WORDS =
  'Now is the winter of our discontent made glorious summer by this sun of York; and all the clouds ';
const text = WORDS.repeat(Math.ceil((Number(values.megabytes) * 2 ** 20) / WORDS.length));
const messages = Array.from({ length: Number(values.messages) }, (_, at) => ({
  role: at % 2 === 0 ? 'user' : 'assistant',
  content: WORDS.repeat(2),
}));

function many<T>(count: number, make: (at: number) => T): T[] {
  return Array.from({ length: count }, (_, at) => make(at));
}

const folder = modelFolder();
const service = await openService(folder, { sequences: 2, contextTokens: 128, mostBodyBytes: 2 ** 24 });
const one = { prompt: 'a', max_tokens: 1 };
const ids = many(2 ** 18 - 64, (at) => 5 + (at % 2000));
const someMessages = messages.slice(0, 4000);
const tools = many(100, (at) => ({
  type: 'function',
  function: {
    name: `f${at}`,
    parameters: { properties: Object.fromEntries(many(70, (of) => [`p${of}`, { description: WORDS }])) },
  },
}));
const cases: Readonly<Record<string, readonly [string, object]>> = {
  tokenized: ['/tokenize', { prompt: text }],
  prompt: ['/v1/completions', { prompt: text }],
  prompts: ['/v1/completions', { ...one, prompt: many(256, () => WORDS.repeat(20)) }],
  ids: ['/v1/completions', { prompt: ids }],
  detokenized: ['/detokenize', { tokens: ids }],
  messages: ['/v1/chat/completions', { messages }],
  parts: [
    '/v1/chat/completions',
    { messages: [{ role: 'user', content: many(8000, () => ({ type: 'text', text: 'ab ' })) }] },
  ],
  items: ['/v1/responses', { input: someMessages }],
  tools: ['/v1/chat/completions', { messages: messages.slice(0, 1), tools }],
  biases: ['/v1/completions', { ...one, logit_bias: Object.fromEntries(many(1000, (at) => [at, 1])) }],
  names: ['/v1/completions', { ...one, metadata: Object.fromEntries(many(32_000, (at) => [`k${at}`, 1])) }],
  nothing: ['/tokenize', { prompt: '' }],
};
const held: Record<string, number> = {};
const delays: Record<string, number> = {};
const statuses: Record<string, number> = {};
// What is made at the first long text is not measured.
await ask(`${service.address}/tokenize`, JSON.stringify({ prompt: text.slice(0, 2 ** 18) }));
for (const [name, [path, body]] of Object.entries(cases)) {
  const sent = JSON.stringify(body);
  const runs: LoopTimes[] = [];
  for (let run = 0; run < Number(values.runs); run++) {
    const { result, times } = await loopTimes(() => ask(`${service.address}${path}`, sent));
    statuses[name] = result.status;
    runs.push(times);
  }
  held[name] = median(runs.map(({ busyMs }) => busyMs));
  delays[name] = median(runs.map(({ delayMs }) => delayMs));
}
await service.close();
rmSync(folder, { recursive: true });
const longest = Math.max(...Object.values(held));
printResult('server-long-prompts', `the event loop was held up for ${longest.toFixed(1)} ms at most`, {
  megabytes: Number(values.megabytes),
  messages: messages.length,
  vocabulary: Number(values.tokens),
  held_up_ms: held,
  event_loop_delay_ms: delays,
  statuses,
});
