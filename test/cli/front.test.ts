// A server without a model: batches go to workers, outlast a kill of anybody, and are answered as one machine answers them.

import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import OpenAI, { toFile } from 'openai';
import { afterAll, describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { freePort, hasRedis, startRedis } from '../helpers/redis-server.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();
const MAIN = join(import.meta.dirname, '../../dist/src/main.js');
const MODEL = modelFolder('stories260K');
const REQUESTS = 60;

const children: ChildProcess[] = [];
afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
});

/** A command that goes on while the test does something to it. */
function begin(words: readonly string[]) {
  const child = spawn(process.execPath, [MAIN, ...words], { stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(child);
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said += String(text);
  });
  const over = new Promise((resolve) => child.once('exit', resolve));
  const says = async (words: string) => {
    while (!said.includes(words) && child.exitCode === null) await setTimeout(50);
    expect(said).toContain(words);
  };
  return { child, says, over };
}

function request(id: number): object {
  const drawn = id % 2 === 0 ? { temperature: 0 } : { temperature: 0.8, seed: id };
  const body = { model: 'small', prompt: `Once upon a time ${id}`, max_tokens: 24, ...drawn };
  return { custom_id: `r${id}`, method: 'POST', url: '/v1/completions', body };
}

interface Line {
  readonly custom_id: string;
  readonly response: { readonly body: { readonly choices: unknown; readonly usage: unknown } };
}

/** What was answered to each, without names and times. */
function answersOf(text: string): unknown[] {
  const lines = text.trimEnd().split('\n');
  const said = lines.map((line) => {
    const { custom_id: id, response } = JSON.parse(line) as Line;
    return [id, response.body.choices, response.body.usage] as const;
  });
  return said.sort(([a], [b]) => Number(a.slice(1)) - Number(b.slice(1)));
}

describe.skipIf(!hasRedis())('with a Redis server', () => {
  it('a batch is answered once by workers that come and go, though front, worker and server are killed', async () => {
    const folder = newFolder();
    const [input, whole] = [join(folder, 'in.jsonl'), join(folder, 'whole.jsonl')];
    const lines = Array.from({ length: REQUESTS }, (_, id) => `${JSON.stringify(request(id))}\n`).join('');
    writeFileSync(input, lines);
    const [port, redisPort] = [await freePort(), await freePort()];
    const queue = ['--queue', `redis://127.0.0.1:${redisPort}`];
    const server = ['serve', ...queue, '--served_model_name', 'small', '--port', `${port}`];
    const serve = () => begin([...server, '--data', join(folder, 'data')]);
    const worker = () =>
      begin(['worker', ...queue, '--name', MODEL, '--batch_size', '4', '--lease_seconds', '3']);
    // Each comes before what it needs.
    let front = serve();
    await front.says('does not answer');
    let redis = startRedis(redisPort, folder);
    children.push(redis);
    await front.says('serving at');
    const client = new OpenAI({ apiKey: 'none', baseURL: `http://127.0.0.1:${port}/v1`, maxRetries: 0 });
    const file = await client.files.create({
      file: await toFile(Buffer.from(lines), 'in.jsonl'),
      purpose: 'batch',
    });
    const made = await client.batches.create({
      input_file_id: file.id,
      endpoint: '/v1/completions',
      completion_window: '24h',
    });
    const first = worker();
    const [one] = await Promise.all([
      runCli(['batch', MODEL, '--served_model_name', 'small', '-i', input, '-o', whole]),
      first.says('answering requests for small'),
    ]);
    expect(one.status).toBe(0);
    const batch = () => client.batches.retrieve(made.id);
    const answered = async (count: number) => {
      for (;;) {
        const { request_counts: counts, status } = await batch();
        if ((counts?.completed ?? 0) >= count || status === 'completed') return;
        await setTimeout(50);
      }
    };
    await answered(1);
    // Beside the batch, and before it.
    const body = { model: 'small', prompt: 'The end', max_tokens: 4, temperature: 0 };
    const single = await client.completions.create(body);
    expect(single.usage?.completion_tokens).toBe(4);
    await expect(client.completions.create({ ...body, stream: true })).rejects.toThrow(/leave stream out/);
    await expect(client.completions.create({ ...body, model: 'other' })).rejects.toThrow(
      /is not served here/,
    );
    front.child.kill('SIGKILL');
    first.child.kill('SIGKILL');
    redis.kill('SIGKILL');
    await Promise.all([front.over, first.over, new Promise((resolve) => redis.once('exit', resolve))]);
    redis = startRedis(redisPort, folder);
    children.push(redis);
    front = serve();
    const second = worker();
    await front.says('going on with 1 batch');
    await front.says('is completed');
    const done = await batch();
    expect(done.request_counts).toEqual({ total: REQUESTS, completed: REQUESTS, failed: 0 });
    const text = await (await client.files.content(done.output_file_id ?? '')).text();
    expect(answersOf(text)).toEqual(answersOf(readFileSync(whole, 'utf8')));
    // Whoever is not of this job is told so.
    const refused = await Promise.all([
      runCli(['worker', ...queue, '--name', modelFolder('shakespeare-bloom')]),
      runCli(['worker', ...queue, '--name', MODEL, '--kv_dtype', 'int8']),
      runCli(['collect', ...queue, '--output', join(folder, 'none.jsonl')]),
      runCli([...server, '--max_context', '100']),
    ]);
    expect(refused.map(({ status }) => status)).toEqual([2, 2, 2, 2]);
    expect(refused.map(({ errors }) => errors.join())).toEqual([
      expect.stringMatching(/another model than the job \("llama" there, "bloom" here\)/),
      expect.stringContaining('another kv_dtype than the job (null there, "int8" here)'),
      expect.stringContaining('whose answers go to its clients'),
      expect.stringContaining('with another max_context (null there, 100 now)'),
    ]);
    front.child.kill('SIGTERM');
    second.child.kill('SIGTERM');
    expect(await Promise.all([front.over, second.over])).toEqual([0, 130]);
  });
});

it('a server with a queue takes no options of a model, and has to say what clients call it', async () => {
  const queue = ['serve', '--queue', 'redis://127.0.0.1:1'];
  const refused = await Promise.all([
    runCli([...queue, '--served_model_name', 'small', '--batch_size', '3']),
    runCli(queue),
  ]);
  expect(refused.map(({ status }) => status)).toEqual([2, 2]);
  expect(refused.map(({ errors }) => errors.join())).toEqual([
    expect.stringContaining('--batch_size is for whoever has a model'),
    expect.stringContaining('--served_model_name is missing'),
  ]);
});
