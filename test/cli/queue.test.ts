// A queue between machines: every text once and the same as one run's, whoever is killed, and who would make others is refused.

import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { textsAhead } from '../../src/cli/queue/work.js';
import { queueAddress } from '../../src/queue/address.js';
import { CHUNK_PROMPTS, chunksOf } from '../../src/queue/chunk.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { freePort, hasRedis, startRedis } from '../helpers/redis-server.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

const servers: ChildProcess[] = [];
afterAll(() => {
  for (const server of servers) server.kill('SIGKILL');
});

function begunRedis(port: number, folder: string): ChildProcess {
  const server = startRedis(port, folder);
  servers.push(server);
  return server;
}

const ended = (child: ChildProcess) => new Promise((resolve) => child.once('exit', resolve));
const MAIN = join(import.meta.dirname, '../../dist/src/main.js');

/** A command that goes on while the test does something to it. */
function begin(words: readonly string[]) {
  const child = spawn(process.execPath, [MAIN, ...words], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said += String(text);
  });
  const says = async (words: string) => {
    while (!said.includes(words) && child.exitCode === null) await setTimeout(50);
    expect(said).toContain(words);
  };
  return { child, says, over: ended(child) };
}

it('an address is shown without its password, and what is none is refused', () => {
  const { shown, url } = queueAddress('rediss://me:secret@head:7000/2', 'night');
  expect([shown, url]).toEqual(['rediss://head:7000/2', 'rediss://me:secret@head:7000/2']);
  expect(queueAddress('redis://head', 'night').shown).toBe('redis://head:6379');
  for (const wrong of ['head:6379', 'http://head', 'redis://', 'secret']) {
    expect(() => queueAddress(wrong, 'night'), wrong).toThrow(/^--queue is no address/);
  }
  expect(() => queueAddress('redis://head', 'a:b')).toThrow(/--job is 'a:b'/);
});

it('prompts are cut into the same parts each time, in order, small where they are long', () => {
  const prompts = Array.from({ length: 100 }, (_, i) => (i === 40 ? 'x'.repeat(1 << 20) : `prompt ${i}`));
  const chunks = [...chunksOf(prompts)];
  expect(chunks.flatMap((chunk) => chunk.prompts)).toEqual(prompts.map((prompt, i) => [i, prompt]));
  expect(chunks.map(({ number }) => number)).toEqual(chunks.map((_, i) => i));
  expect(Math.max(...chunks.map((chunk) => chunk.prompts.length))).toBe(CHUNK_PROMPTS);
  expect(chunks.find((chunk) => chunk.characters > 1 << 20)?.prompts).toEqual([[40, prompts[40]]]);
});

describe('a worker holds', () => {
  it('work for minutes, and never what others could make meanwhile', () => {
    const partTexts = CHUNK_PROMPTS;
    expect(textsAhead(2, { waitingTexts: 1e6, workers: 4, partTexts })).toBe(240);
    expect(textsAhead(2, { waitingTexts: 800, workers: 4, partTexts })).toBe(100);
    expect(textsAhead(0, { waitingTexts: 0, workers: 0, partTexts })).toBe(1);
    // There is not a part for each, and whoever has places takes one.
    expect(textsAhead(2, { waitingTexts: 64, workers: 4, partTexts })).toBe(0);
    expect(textsAhead(2, { waitingTexts: 64, workers: 1, partTexts })).toBe(32);
  });
});

const MODEL = modelFolder('bloom');
const PROMPTS = 100;

describe.skipIf(!hasRedis())('with a Redis server', () => {
  it('a killed worker, a stopped one, one that stands still and a restarted server leave every text once, as one run makes them', async () => {
    const folder = newFolder();
    const [input, output, whole] = ['in.jsonl', 'out.jsonl', 'whole.jsonl'].map((name) =>
      join(folder, name),
    ) as [string, string, string];
    const lines = Array.from({ length: PROMPTS }, (_, i) => ({
      prompt_token_ids: i === 77 ? [999_999] : [i % 384, (i * 7) % 384],
      id: `p${i}`,
    }));
    writeFileSync(input, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    const port = await freePort();
    const queue = ['--queue', `redis://127.0.0.1:${port}`];
    const wanted = [
      '--name',
      MODEL,
      '--prompts_file',
      input,
      '--max_new_tokens',
      '12',
      '--temperature',
      '0.9',
      '--seed',
      '5',
    ];
    const one = runCli([...wanted, '--num_samples', '2', '--batch_size', '32', '--output', whole]);
    // The server comes later than those who ask for it.
    const submit = begin(['submit', ...queue, ...wanted, '--num_samples', '2']);
    const collecting = runCli(['collect', ...queue, '--output', output]);
    await submit.says('does not answer');
    let server = begunRedis(port, folder);
    await submit.says('answers again');
    await submit.over;
    await submit.says(`has ${PROMPTS} prompts`);
    const worker = (...words: string[]) =>
      runCli(['worker', ...queue, '--name', MODEL, '--batch_size', '8', '--lease_seconds', '3', ...words]);
    const refused = await Promise.all([
      worker('--dtype', 'int8'),
      runCli(['worker', ...queue, '--name', modelFolder('llama')]),
      worker('--seed', '7'),
      runCli(['submit', ...queue, ...wanted, '--num_samples', '2', '--top_k', '3']),
    ]);
    expect(refused.map(({ status }) => status)).toEqual([2, 2, 2, 2]);
    expect(refused.map(({ errors }) => errors.join())).toEqual([
      expect.stringContaining('another --dtype than the job (none there, int8 here)'),
      expect.stringMatching(/another model than the job \("?bloom"? there, "?llama"? here\)/),
      expect.stringContaining('no option --seed of worker'),
      expect.stringContaining('with another top_k (0 there, 3 now)'),
    ]);
    // Each of these ends in the middle of something.
    for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
      const words = ['worker', ...queue, '--name', MODEL, '--batch_size', '4', '--lease_seconds', '3'];
      const some = begin(words);
      await some.says('ready in');
      await setTimeout(300);
      some.child.kill(signal);
      await some.over;
    }
    // One stands still with prompts in hand until the others have made them.
    const still = begin(['worker', ...queue, '--name', MODEL, '--batch_size', '4', '--lease_seconds', '3']);
    await still.says('ready in');
    await setTimeout(300);
    still.child.kill('SIGSTOP');
    const last = worker();
    await setTimeout(4000);
    // What it was told is on its drive.
    const over = ended(server);
    server.kill('SIGKILL');
    await over;
    server = begunRedis(port, folder);
    const [finished, collected, single] = await Promise.all([last, collecting, one]);
    expect([finished.status, collected.status, single.status]).toEqual([0, 0, 0]);
    still.child.kill('SIGCONT');
    expect(await still.over).toBe(0);
    const inOrder = (path: string) =>
      readFileSync(path, 'utf8')
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as { index: number; sample: number })
        .sort((a, b) => a.index - b.index || a.sample - b.sample);
    expect(inOrder(output)).toEqual(inOrder(whole));
    expect(inOrder(output)).toHaveLength(2 * PROMPTS);
    // It is a file of results like any other, and the job is over.
    const [resumed, late, status] = await Promise.all([
      runCli([...wanted, '--num_samples', '2', '--output', output, '--resume']),
      worker(),
      runCli(['status', ...queue, '--json']),
    ]);
    expect(resumed.logs.join()).toContain('has 200 of 200 texts; 0 are to be made');
    expect(late.logs.join()).toContain('is collected: there is nothing left to do');
    expect(JSON.parse(status.stdout)).toMatchObject({ state: 'collected', workers: [] });
  });
});
