// Kills the process that works through a batch, again and again, until it ends by itself; what its results have then.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { randomFrom } from '../random.js';

export interface KillOptions {
  readonly model: string;
  /** Empty, or not there. */
  readonly folder: string;
  readonly requests: number;
  readonly kills: number;
  readonly seed: number;
}

export interface AfterKills {
  /** Kills before the first line of a process, and behind some. */
  readonly killed: { readonly early: number; readonly later: number };
  /** Last lines that were cut in half beside, as a machine that loses power leaves them. */
  readonly torn: number;
  readonly lines: number;
  readonly lost: readonly string[];
  readonly doubled: readonly string[];
  /** Errors, and texts other than the first one of the same prompt. */
  readonly wrong: readonly string[];
  readonly seconds: number;
}

/** As the sources lie, or as they are compiled. */
const ROOT = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../../' : '../../../', import.meta.url),
);
const MAIN = join(ROOT, 'dist/src/main.js');
const PROMPTS = 40;
const LOOK_MS = 5;
/** Shares of kills: while a process starts, and with a line that is torn. */
const [EARLY, TORN] = [0.25, 0.15];

const idOf = (index: number) => `request-${index}`;
const promptOf = (index: number) => `Once upon a time there were ${index % PROMPTS} of them`;

function batchText(count: number): string {
  const lines = Array.from({ length: count }, (_, index) => {
    const body = { prompt: promptOf(index), max_tokens: 2 + ((index % PROMPTS) % 10), temperature: 0 };
    return JSON.stringify({ custom_id: idOf(index), method: 'POST', url: '/v1/completions', body });
  });
  return lines.map((line) => `${line}\n`).join('');
}

/** A program at work. */
interface Life {
  /** Where it writes its lines, as far as that is known yet. */
  readonly output: () => string | undefined;
  readonly kill: () => Promise<void>;
  /** Resolves when the work is done, and nothing runs any more. */
  readonly ended: () => Promise<void>;
  readonly hasEnded: () => boolean;
}

/** `zero-inference batch`. */
export async function commandUnderKills(options: KillOptions): Promise<AfterKills> {
  const { model, folder, requests } = options;
  const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
  writeFileSync(input, batchText(requests));
  const words = ['batch', model, '--input', input, '--output', output, '--resume', ...SETTINGS];
  const summary = await killAgain(options, async () => {
    const program = started(words);
    return {
      output: () => output,
      kill: program.kill,
      hasEnded: program.hasEnded,
      ended: async () => {
        const { status, said } = await program.ended;
        if (status !== 0) throw new Error(`it ended with status ${status}: ${said}`);
      },
    };
  });
  return { ...summary, ...judged(readFileSync(output, 'utf8'), requests) };
}

/** `zero-inference serve --data`; the batch is made in its first life. */
export async function serverUnderKills(options: KillOptions): Promise<AfterKills> {
  const { model, folder, requests } = options;
  const data = join(folder, 'data');
  const words = ['serve', model, '--port', '0', '--data', data, ...SETTINGS];
  let batch: string | undefined;
  let results = '';
  const summary = await killAgain(options, async () => {
    const program = started(words);
    batch ??= await makeBatch(await program.address(), batchText(requests));
    const id = batch;
    return {
      output: () => join(data, 'batches', id, 'output.jsonl'),
      kill: program.kill,
      hasEnded: () => isCompleted(join(data, 'batches', id)),
      ended: async () => {
        results = await resultsOf(await program.address(), id);
        await program.kill();
      },
    };
  });
  const left = readdirSync(join(data, 'batches', batch ?? '')).filter((name) => name !== 'batch.json');
  const verdict = judged(results, requests);
  return { ...summary, ...verdict, wrong: [...verdict.wrong, ...left] };
}

const SETTINGS = ['--batch_size', '4', '--device', 'cpu', '--threads', '1', '--log_level', 'info'];

async function killAgain(options: KillOptions, begin: () => Promise<Life>) {
  const { requests, kills } = options;
  const random = randomFrom(options.seed);
  const startMs = performance.now();
  /** How long a process has taken to its first line. */
  let firstLineMs = 0;
  let [early, later, torn] = [0, 0, 0];
  while (early + later < kills) {
    const bornMs = performance.now();
    const life = await begin();
    const before = linesIn(life.output());
    const isEarly = firstLineMs > 0 && random() < EARLY;
    // A pass may end several texts, so that lives are longer than they are meant to be.
    const share = (requests - before) / (kills - early - later);
    const most = 1 + Math.floor(random() * 1.2 * share);
    const untilMs = bornMs + random() * firstLineMs;
    for (;;) {
      await setTimeout(LOOK_MS);
      const made = linesIn(life.output()) - before;
      if (made > 0 && firstLineMs === 0) firstLineMs = performance.now() - bornMs;
      if (isEarly ? performance.now() >= untilMs : made >= most) break;
      if (life.hasEnded()) break;
    }
    if (life.hasEnded()) break;
    await life.kill();
    if (linesIn(life.output()) === before) early++;
    else later++;
    if (random() < TORN && tearLastLine(life.output())) torn++;
  }
  const last = await begin();
  await last.ended();
  return { killed: { early, later }, torn, seconds: (performance.now() - startMs) / 1e3 };
}

function started(words: readonly string[]) {
  const child = spawn(process.execPath, [MAIN, ...words], { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
  let hasEnded = false;
  const ended = once(child, 'close').then(([status]) => {
    hasEnded = true;
    return { status: status as number | null, said };
  });
  return {
    ended,
    hasEnded: () => hasEnded,
    kill: async () => {
      child.kill('SIGKILL');
      await ended;
    },
    address: async () => {
      for (;;) {
        const address = /serving at (http:[^;]+);/.exec(said)?.[1];
        if (address !== undefined) return address;
        if (hasEnded) throw new Error(`the server has ended: ${said}`);
        await setTimeout(LOOK_MS);
      }
    },
  };
}

async function makeBatch(address: string, text: string): Promise<string> {
  const form = new FormData();
  form.set('purpose', 'batch');
  form.set('file', new Blob([text]), 'in.jsonl');
  const { id: input } = await asked(`${address}/v1/files`, { method: 'POST', body: form });
  const body = JSON.stringify({
    input_file_id: input,
    endpoint: '/v1/completions',
    completion_window: '24h',
  });
  const headers = { 'content-type': 'application/json' };
  return String((await asked(`${address}/v1/batches`, { method: 'POST', headers, body })).id);
}

async function resultsOf(address: string, id: string): Promise<string> {
  for (;;) {
    const { status, output_file_id: output } = await asked(`${address}/v1/batches/${id}`);
    if (status === 'completed') return (await fetch(`${address}/v1/files/${output}/content`)).text();
    if (status === 'failed' || status === 'cancelled') throw new Error(`the batch is ${status}`);
    await setTimeout(100);
  }
}

async function asked(url: string, init?: RequestInit): Promise<Record<string, unknown>> {
  const response = await fetch(url, init);
  const body = (await response.json()) as Record<string, unknown>;
  if (!response.ok) throw new Error(JSON.stringify(body));
  return body;
}

function isCompleted(folder: string): boolean {
  const record = join(folder, 'batch.json');
  return existsSync(record) && readFileSync(record, 'utf8').includes('"status": "completed"');
}

function linesIn(path: string | undefined): number {
  if (path === undefined || !existsSync(path)) return 0;
  return readFileSync(path, 'utf8').split('\n').length - 1;
}

function tearLastLine(path: string | undefined): boolean {
  if (path === undefined || !existsSync(path)) return false;
  const { size } = statSync(path);
  if (size < 100) return false;
  truncateSync(path, size - 50);
  return true;
}

interface ResultLine {
  readonly custom_id: string;
  readonly response?: { readonly body: { readonly choices?: readonly { readonly text: string }[] } };
}

function judged(results: string, requests: number) {
  const lines = results.split('\n').filter((line) => line !== '');
  const times = new Map<string, number>();
  const texts = new Map<string, string>();
  const wrong: string[] = [];
  for (const line of lines) {
    const { custom_id: id, response } = JSON.parse(line) as ResultLine;
    times.set(id, (times.get(id) ?? 0) + 1);
    const text = response?.body.choices?.[0]?.text;
    const prompt = promptOf(Number(id.slice(idOf(0).length - 1)));
    if (text === undefined || (texts.get(prompt) ?? text) !== text) wrong.push(line);
    else texts.set(prompt, text);
  }
  const all = Array.from({ length: requests }, (_, index) => idOf(index));
  return {
    lines: lines.length,
    lost: all.filter((id) => !times.has(id)),
    doubled: [...times].flatMap(([id, count]) => (count > 1 ? [id] : [])),
    wrong,
  };
}
