// Kills a process in the middle of a batch, again and again, until it ends by itself; what its files have then.

import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { StoreFolder } from '../../src/batches/store-folder.js';
import { StoredFiles } from '../../src/batches/stored-files.js';

/** As the sources lie, or as they are compiled. */
const ROOT = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../../' : '../../../', import.meta.url),
);
const CHILD = join(ROOT, 'dist/test/batches/killed.js');

export interface KillOptions {
  readonly folder: string;
  readonly requests: number;
  readonly kills: number;
  /** An answer takes up to so long. */
  readonly answerMs: number;
  /** A process lives up to so long after it has begun to work. */
  readonly lifeMs: number;
}

export interface AfterKills {
  /** Processes that were killed while they worked. */
  readonly killed: number;
  /** What each line of the results is an answer to, in their order. */
  readonly answered: readonly string[];
  readonly errors: number;
  /** Names that are left in the store beside input, results and their records. */
  readonly left: readonly string[];
}

export async function batchUnderKills(options: KillOptions): Promise<AfterKills> {
  const { folder, requests, kills, answerMs, lifeMs } = options;
  mkdirSync(folder, { recursive: true });
  const store = await StoreFolder.open(folder);
  const lines = Array.from({ length: requests }, (_, index) => `${JSON.stringify(lineOf(index))}\n`);
  const files = new StoredFiles(store);
  const received = await files.receive(Readable.from([Buffer.from(lines.join(''))]));
  const input = files.keep(received, { owner: null, filename: 'in.jsonl', purpose: 'batch' });
  store.close();
  let killed = 0;
  for (let run = 0; ; run++) {
    const isLast = run >= kills;
    const ended = await runOnce([CHILD, folder, input.id, String(answerMs)], isLast ? undefined : lifeMs);
    if (ended === 'killed') killed++;
    else if (ended !== 'completed') throw new Error(`the process ended with ${ended}`);
    if (isLast) break;
  }
  return { killed, ...resultsIn(folder) };
}

export function lineOf(index: number): object {
  const body = { prompt: `text ${index}`, filler: 'x'.repeat(200 + (index % 7) * 500) };
  return { custom_id: `request-${index}`, method: 'POST', url: '/v1/completions', body };
}

async function runOnce(words: readonly string[], lifeMs: number | undefined): Promise<string> {
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  const began = new Promise<void>((resolve) => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text;
      if (said.includes('working')) resolve();
    });
  });
  const ended = new Promise<string>((resolve) => {
    child.on('exit', (status, signal) => resolve(signal === 'SIGKILL' ? 'killed' : `status ${status}`));
  });
  await Promise.race([began, ended]);
  if (lifeMs !== undefined) {
    await setTimeout(Math.random() * lifeMs);
    child.kill('SIGKILL');
  }
  const how = await ended;
  return said.includes('completed') ? 'completed' : how;
}

function resultsIn(folder: string): Omit<AfterKills, 'killed'> {
  const records = readdirSync(join(folder, 'files')).filter((name) => name.endsWith('.json'));
  const ofKind = (kind: string) =>
    records.flatMap((name) => {
      const file = JSON.parse(readFileSync(join(folder, 'files', name), 'utf8'));
      if (!file.filename.endsWith(`_${kind}.jsonl`)) return [];
      const text = readFileSync(join(folder, 'files', `${file.id}.jsonl`), 'utf8');
      return text.split('\n').filter((line) => line !== '');
    });
  const answered = ofKind('output').map((line) => {
    const { custom_id: id, response } = JSON.parse(line);
    return `${id}: ${response.body.echo.prompt}`;
  });
  const inBatches = readdirSync(join(folder, 'batches')).flatMap((id) =>
    readdirSync(join(folder, 'batches', id)),
  );
  const left = [
    ...inBatches.filter((name) => name !== 'batch.json'),
    ...readdirSync(join(folder, 'files')).filter((name) => !/\.(json|jsonl)$/.test(name)),
  ];
  return { answered, errors: ofKind('error').length, left };
}
