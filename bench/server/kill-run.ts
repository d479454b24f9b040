// Kills the process that works through a batch, again and again, and lets the last one end; what its results have then.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { randomFrom } from '../random.js';

export interface KillOptions {
  readonly model: string;
  /** Empty. */
  readonly folder: string;
  readonly requests: number;
  readonly kills: number;
  readonly seed: number;
}

export interface AfterKills {
  /** Kills at any time of a process, and at a line: before it, within it, or right behind it. */
  readonly killed: Readonly<Record<'anytime' | 'before' | 'within' | 'behind', number>>;
  readonly lines: number;
  readonly lost: readonly string[];
  readonly doubled: readonly string[];
  /** Errors, texts other than the first one of the same prompt, and what is left in the store beside records. */
  readonly wrong: readonly string[];
  readonly seconds: number;
}

/** As the sources lie, or as they are compiled. */
const ROOT = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../../' : '../../../', import.meta.url),
);
const MAIN = join(ROOT, 'dist/src/main.js');
const PROMPTS = 40;
const LOOK_MS = 50;
/** The share of kills that come whenever it may be. */
const ANYTIME = 0.25;

const idOf = (index: number) => `request-${index}`;
const promptOf = (index: number) => `Once upon a time there were ${index % PROMPTS} of them`;

function batchText(count: number): string {
  const lines = Array.from({ length: count }, (_, index) => {
    const body = { prompt: promptOf(index), max_tokens: 2 + ((index % PROMPTS) % 10), temperature: 0 };
    return JSON.stringify({ custom_id: idOf(index), method: 'POST', url: '/v1/completions', body });
  });
  return lines.map((line) => `${line}\n`).join('');
}

/** When a process kills itself: in the place of its next line but so many, or after a time. */
interface Death {
  readonly lines: number;
  /** How much of that line is written before. */
  readonly part: number;
  readonly ms: number | undefined;
}

/** To be imported before the program: whoever kills from outside comes too late or too early on a machine that is busy. */
function killer({ lines, part, ms }: Death): string {
  const script = `
    import fs from 'node:fs';
    import { syncBuiltinESMExports } from 'node:module';
    const die = () => process.kill(process.pid, 'SIGKILL');
    const write = fs.writeSync;
    let open = ${lines};
    fs.writeSync = (file, bytes, ...rest) => {
      if (!String(bytes).startsWith('{"id":"batch_req_') || open-- > 0) return write(file, bytes, ...rest);
      write(file, bytes, 0, Math.floor(bytes.length * ${part}));
      die();
    };
    syncBuiltinESMExports();
    ${ms === undefined ? '' : `setTimeout(die, ${ms});`}`;
  return `data:text/javascript,${encodeURIComponent(script)}`;
}

/** `zero-inference batch`. */
export async function commandUnderKills(options: KillOptions): Promise<AfterKills> {
  const { model, folder, requests } = options;
  const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
  writeFileSync(input, batchText(requests));
  const words = ['batch', model, '--input', input, '--output', output, '--resume', ...SETTINGS];
  const summary = await killAgain(options, {
    done: () => linesIn(output),
    live: async (death) => {
      await started(words, death).killed();
    },
    end: async () => {
      const { status, said } = await started(words).ended;
      if (status !== 0) throw new Error(`it ended with status ${status}: ${said}`);
    },
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
  const summary = await killAgain(options, {
    done: () => linesIn(join(data, 'batches', batch ?? '', 'output.jsonl')),
    live: async (death) => {
      const program = started(words, death);
      batch ??= await makeBatch(await program.address(), batchText(requests));
      await program.killed();
    },
    end: async () => {
      const program = started(words);
      results = await resultsOf(await program.address(), batch ?? '');
      await program.kill();
    },
  });
  const left = readdirSync(join(data, 'batches', batch ?? '')).filter((name) => name !== 'batch.json');
  const verdict = judged(results, requests);
  return { ...summary, ...verdict, wrong: [...verdict.wrong, ...left] };
}

const SETTINGS = ['--batch_size', '4', '--device', 'cpu', '--threads', '1'];

interface Lives {
  /** Lines that are there. */
  readonly done: () => number;
  /** Resolves when the process is dead. */
  readonly live: (death: Death) => Promise<void>;
  /** A last one, which nobody kills. */
  readonly end: () => Promise<void>;
}

async function killAgain({ requests, kills, seed }: KillOptions, { done, live, end }: Lives) {
  const random = randomFrom(seed);
  const startMs = performance.now();
  const killed = { anytime: 0, before: 0, within: 0, behind: 0 };
  let firstMs = 0;
  for (let kill = 0; kill < kills; kill++) {
    const share = (requests - done()) / (kills - kill);
    const lines = Math.floor(random() * 1.2 * (share - 1));
    const kind = (['before', 'within', 'behind'] as const)[Math.floor(random() * 3)] ?? 'within';
    const part = { before: 0, within: 0.1 + 0.8 * random(), behind: 1 }[kind];
    // The first one lives to its line, to know how long that takes.
    const ms = kill > 0 && random() < ANYTIME ? random() * firstMs : undefined;
    await live({ lines, part, ms });
    killed[ms === undefined ? kind : 'anytime']++;
    if (kill === 0) firstMs = performance.now() - startMs;
  }
  await end();
  return { killed, seconds: (performance.now() - startMs) / 1e3 };
}

function started(words: readonly string[], death?: Death) {
  const before = death ? ['--import', killer(death)] : [];
  const child = spawn(process.execPath, [...before, MAIN, ...words], { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
  let hasEnded = false;
  const ended = once(child, 'close').then(([status, signal]) => {
    hasEnded = true;
    return { status: status as number | null, signal: signal as string | null, said };
  });
  return {
    ended,
    killed: async () => {
      const { status, signal } = await ended;
      if (signal !== 'SIGKILL') throw new Error(`it ended with status ${status}: ${said}`);
    },
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

function linesIn(path: string): number {
  return existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0;
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
