// Batches would lose or double requests: after kills, cancelling, bad lines, a full drive, or a store that is damaged.

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { WholeReply } from '../../src/api/reply.js';
import { BatchInput } from '../../src/batches/batch-input.js';
import { batchObject, type StoredBatch } from '../../src/batches/batch-object.js';
import { BatchResults } from '../../src/batches/batch-results.js';
import { Batches } from '../../src/batches/batches.js';
import { type Answer, runBatch } from '../../src/batches/run-batch.js';
import { StoreFolder } from '../../src/batches/store-folder.js';
import { type StoredFile, StoredFiles } from '../../src/batches/stored-files.js';
import { tempFolder } from '../helpers/temp-folder.js';
import { batchUnderKills, lineOf } from './kills.js';

const WANTED = { owner: null, endpoint: '/v1/completions', completion_window: '24h', metadata: null };

function ok(body: unknown): WholeReply {
  return { kind: 'whole', status: 200, body: { echo: body } };
}

/** Mounting a small drive takes rights that not everybody has. */
const MAY_MOUNT = spawnSync('unshare', ['--mount', 'true']).status === 0;

interface Open {
  readonly store: StoreFolder;
  readonly files: StoredFiles;
  readonly batches: Batches;
  readonly told: string[];
}

async function open(folder: string, answer: Answer): Promise<Open> {
  const store = await StoreFolder.open(folder);
  try {
    const files = new StoredFiles(store);
    const told: string[] = [];
    const tell = (sentence: string) => void told.push(sentence);
    const batches = new Batches({ store, files, answer, atOnce: 4, tell, retryMs: 20 });
    return { store, files, batches, told };
  } catch (error) {
    store.close();
    throw error;
  }
}

async function upload(files: StoredFiles, lines: readonly (object | string)[]): Promise<StoredFile> {
  const text = lines.map((line) => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`).join('');
  const received = await files.receive(Readable.from([Buffer.from(text)]));
  return files.keep(received, { owner: null, filename: 'in.jsonl', purpose: 'batch' });
}

async function ended({ batches }: Open, { id }: StoredBatch): Promise<StoredBatch> {
  for (;;) {
    const batch = batches.find(id, null);
    if (batch && ['completed', 'failed', 'cancelled'].includes(batch.status)) return batch;
    await setTimeout(2);
  }
}

function linesOf({ files }: Open, id: string | null): Record<string, unknown>[] {
  const file = id === null ? undefined : files.find(id, null);
  if (!file) return [];
  const text = readFileSync(files.pathOf(file), 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

const some = (count: number) => Array.from({ length: count }, (_, index) => lineOf(index));

describe('a batch', () => {
  it('has every line exactly once after kills at any moment, and leaves nothing else behind', async () => {
    const requests = 240;
    const options = { folder: join(tempFolder(), 'data'), requests, kills: 5, answerMs: 8, lifeMs: 120 };
    const { killed, answered, errors, left } = await batchUnderKills(options);
    expect(killed).toBeGreaterThan(1);
    expect([...answered].sort()).toEqual(
      some(requests)
        .map((_, index) => `request-${index}: text ${index}`)
        .sort(),
    );
    expect({ errors, left }).toEqual({ errors: 0, left: [] });
  });

  it('answers what can be answered; bad lines and refusals go to the error file with their line', async () => {
    const server = await open(tempFolder(), async (_, body) =>
      JSON.stringify(body).includes('text 1"')
        ? { kind: 'whole', status: 400, body: { error: { message: 'no' } } }
        : ok(body),
    );
    const lines = [
      lineOf(0),
      '{"custom_id": "torn',
      lineOf(1),
      '',
      { ...lineOf(2), url: '/v1/embeddings' },
      lineOf(3),
    ];
    const batch = server.batches.create(await upload(server.files, lines), WANTED);
    expect(batchObject(batch)).toMatchObject({ object: 'batch', status: 'validating', errors: null });
    const done = await ended(server, batch);
    expect(done.request_counts).toEqual({ total: 5, completed: 2, failed: 3 });
    const output = linesOf(server, done.output_file_id);
    expect(output.map((line) => line.custom_id).sort()).toEqual(['request-0', 'request-3']);
    expect(output[0]).toMatchObject({ error: null, response: { status_code: 200 } });
    const errors = linesOf(server, done.error_file_id);
    const told = errors.map(({ custom_id: id, response, error }) => [id, response ?? error]);
    expect(told).toEqual(
      expect.arrayContaining([
        [
          null,
          { code: 'invalid_json', line: 2, message: expect.stringMatching(/^line 2: the line is no JSON/) },
        ],
        ['request-1', expect.objectContaining({ status_code: 400, body: { error: { message: 'no' } } })],
        ['request-2', expect.objectContaining({ code: 'invalid_url', line: 5 })],
      ]),
    );
    await server.batches.close();
    server.store.close();
  });

  it('with a custom_id twice is refused, with both lines', async () => {
    const server = await open(tempFolder(), async (_, body) => ok(body));
    const batch = server.batches.create(await upload(server.files, [...some(3), lineOf(1)]), WANTED);
    const failed = await ended(server, batch);
    expect(failed).toMatchObject({ status: 'failed', output_file_id: null });
    expect(failed.problems).toEqual([
      expect.objectContaining({
        code: 'duplicate_custom_id',
        line: 4,
        message: expect.stringContaining('"request-1" in line 2 and again in line 4'),
      }),
    ]);
    expect(failed.problems[0]?.message).not.toContain(server.store.path);
    await server.batches.close();
    server.store.close();
  });

  it('that is cancelled keeps what was answered, and its open requests end', async () => {
    let [begun, aborted] = [0, 0];
    const server = await open(tempFolder(), async (_, body, { signal }) => {
      if (++begun <= 6) return ok(body);
      return new Promise((resolve) => {
        signal.addEventListener('abort', () => {
          aborted++;
          resolve({ kind: 'whole', status: 499, body: {} });
        });
      });
    });
    const batch = server.batches.create(await upload(server.files, some(20)), WANTED);
    while (begun < 10) await setTimeout(2);
    expect(server.batches.cancel(batch)).toMatchObject({ status: 'cancelling' });
    const cancelled = await ended(server, batch);
    expect(cancelled).toMatchObject({
      status: 'cancelled',
      request_counts: { total: 20, completed: 6, failed: 0 },
    });
    expect(linesOf(server, cancelled.output_file_id)).toHaveLength(6);
    expect(aborted).toBe(4);
    await server.batches.close();
    server.store.close();
  });

  it('goes on after a shutdown, and asks again what had not ended', async () => {
    const folder = tempFolder();
    let answered = 0;
    const first = await open(folder, async (_, body, { signal }) => {
      if (++answered <= 5) return ok(body);
      await setTimeout(60_000, undefined, { signal }).catch(() => undefined);
      return { kind: 'whole', status: 503, body: {} };
    });
    const batch = first.batches.create(await upload(first.files, some(12)), WANTED);
    while (answered < 9) await setTimeout(2);
    await first.batches.close();
    expect(first.batches.find(batch.id, null)?.status).toBe('in_progress');
    first.store.close();
    const asked: unknown[] = [];
    const second = await open(folder, async (_, body) => {
      asked.push(body);
      return ok(body);
    });
    second.batches.start();
    const done = await ended(second, batch);
    expect(asked).toHaveLength(7);
    expect(new Set(linesOf(second, done.output_file_id).map((line) => line.custom_id)).size).toBe(12);
    await second.batches.close();
    second.store.close();
  });

  it('waits where the server is too busy, rather than count that as an answer', async () => {
    let asked = 0;
    const server = await open(tempFolder(), async (_, body) =>
      ++asked === 1 ? { kind: 'whole', status: 429, body: {}, retryAfterSeconds: 0.01 } : ok(body),
    );
    const done = await ended(server, server.batches.create(await upload(server.files, some(2)), WANTED));
    expect(done.request_counts).toEqual({ total: 2, completed: 2, failed: 0 });
    expect(asked).toBe(3);
    await server.batches.close();
    server.store.close();
  });
});

describe('a store', () => {
  it('is one process’s alone', async () => {
    const folder = tempFolder();
    const store = await StoreFolder.open(folder);
    await expect(StoreFolder.open(folder)).rejects.toMatchObject({
      code: 'WRITE_FAILED',
      message: expect.stringContaining('another server uses it: give each its own'),
    });
    store.close();
    (await StoreFolder.open(folder)).close();
  });

  it('is a folder, or is refused by the option that names it', async () => {
    const file = join(tempFolder(), 'file');
    writeFileSync(file, '');
    await expect(StoreFolder.open(file)).rejects.toMatchObject({
      code: 'WRITE_FAILED',
      message: `--data: ${file} is a file: give a folder`,
    });
  });

  it('has no content left over that no record names, but what a batch is about to hand over', async () => {
    const folder = tempFolder();
    const server = await open(folder, async () => ({ kind: 'whole', status: 503, body: {} }));
    const batch = server.batches.create(await upload(server.files, some(1)), WANTED);
    await server.batches.close();
    server.store.close();
    const [stray, reserved] = [`file-${'0'.repeat(24)}`, batch.reserved.output];
    for (const id of [stray, reserved]) writeFileSync(join(folder, 'files', `${id}.jsonl`), '{}\n');
    mkdirSync(join(folder, 'batches', 'batch_that_nobody_was_told_of'));
    const again = await open(folder, async (_, body) => ok(body));
    const names = [...again.store.list('files'), ...again.store.list('batches')];
    expect(names).toContain(`${reserved}.jsonl`);
    expect(names).not.toContain(`${stray}.jsonl`);
    expect(again.store.list('batches')).toEqual([batch.id]);
    await again.batches.close();
    again.store.close();
  });

  it.skipIf(!MAY_MOUNT)(
    'on a full drive refuses uploads, and goes on with batches once there is room',
    async () => {
      const folder = tempFolder();
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', folder]);
      try {
        const server = await open(folder, async (_, body) => ok(body));
        const input = await upload(server.files, some(8));
        const { bavail, bsize } = statfsSync(folder);
        writeFileSync(join(folder, 'other'), Buffer.alloc((bavail - 2) * bsize));
        const batch = server.batches.create(input, WANTED);
        while (server.told.length === 0) await setTimeout(2);
        expect(server.told).toEqual([expect.stringMatching(/stands still.*: WRITE_FAILED|no space/i)]);
        expect(server.batches.find(batch.id, null)?.status).toMatch(/validating|in_progress|finalizing/);
        const much = upload(server.files, [`"${'x'.repeat(20_000)}"`]);
        await expect(much).rejects.toMatchObject({
          code: 'WRITE_FAILED',
          message: expect.stringMatching(/no space/i),
        });
        expect(server.files.list(null)).toHaveLength(1);
        rmSync(join(folder, 'other'));
        const done = await ended(server, batch);
        expect(done.request_counts).toEqual({ total: 8, completed: 8, failed: 0 });
        expect(new Set(linesOf(server, done.output_file_id).map((line) => line.custom_id)).size).toBe(8);
        await server.batches.close();
        server.store.close();
      } finally {
        execFileSync('umount', [folder]);
      }
    },
  );

  it('that is damaged is told in a sentence with the file', async () => {
    const folder = tempFolder();
    const server = await open(folder, async (_, body) => ok(body));
    const file = await upload(server.files, some(3));
    const batch = server.batches.create(file, WANTED);
    await ended(server, batch);
    await server.batches.close();
    server.store.close();
    truncateSync(join(folder, 'batches', batch.id, 'batch.json'), 40);
    await expect(open(folder, async (_, body) => ok(body))).rejects.toMatchObject({
      code: 'READ_FAILED',
      message: expect.stringMatching(/batch\.json is damaged .*: move it away/),
    });
    rmSync(join(folder, 'batches', batch.id), { recursive: true });
    (await StoreFolder.open(folder)).close();
    truncateSync(join(folder, 'files', `${file.id}.jsonl`), 10);
    const store = await StoreFolder.open(folder);
    expect(() => new StoredFiles(store)).toThrow(/is damaged \(10 in place of \d+ bytes\)/);
    store.close();
  });

  it('keeps no half of an upload, and no one else’s files', async () => {
    const server = await open(tempFolder(), async (_, body) => ok(body));
    async function* broken(): AsyncGenerator<Uint8Array, void> {
      yield Buffer.from('half');
      throw new Error('the client has left');
    }
    await expect(server.files.receive(broken())).rejects.toThrow('the client has left');
    expect(server.store.list('files')).toEqual([]);
    const received = await server.files.receive(Readable.from([Buffer.from('{}\n')]));
    const kept = server.files.keep(received, { owner: 'a', filename: 'x', purpose: 'batch' });
    expect(server.files.find(kept.id, 'b')).toBeUndefined();
    expect(server.files.find('../../etc/passwd', 'a')).toBeUndefined();
    expect(server.files.find(kept.id, 'a')).toEqual(kept);
    server.store.close();
  });
});

describe('files of results', () => {
  it('drop a torn last line, put damaged ones aside, and refuse those of another batch', async () => {
    const folder = tempFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    writeFileSync(
      input,
      some(4)
        .map((line) => `${JSON.stringify(line)}\n`)
        .join(''),
    );
    const lines = await BatchInput.read({ path: input, option: '--input' });
    const options = { output, errors: output, option: '--output', key: 'abc', requests: 4 };
    const first = new BatchResults(options);
    first.add(2, 'request-2', ok(2));
    first.add(0, 'request-0', ok(0));
    first.close();
    const whole = readFileSync(output, 'utf8');
    writeFileSync(output, `${whole}%%%\n${whole.slice(0, 30)}`);
    const results = new BatchResults(options);
    expect([0, 1, 2, 3].map((index) => results.isDone(index))).toEqual([true, false, true, false]);
    const signal = new AbortController().signal;
    const asked: unknown[] = [];
    const answer: Answer = async (_, body) => {
      asked.push(body);
      return ok(body);
    };
    await runBatch({ input: lines, results, answer, client: 'c', atOnce: 3, signal });
    results.close();
    lines.close();
    expect(asked).toHaveLength(2);
    const ids = readFileSync(output, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).custom_id);
    expect([...ids].sort()).toEqual(['request-0', 'request-1', 'request-2', 'request-3']);
    expect(readFileSync(`${output}.damaged`, 'utf8')).toBe('%%%\n');
    expect(() => new BatchResults({ ...options, key: 'abd' })).toThrow(/line 1 of .* is of another batch/);
  });

  it('that cannot be written end the work, and nothing is counted that is not there', async () => {
    const folder = tempFolder();
    const input = join(folder, 'in.jsonl');
    writeFileSync(
      input,
      some(4)
        .map((line) => `${JSON.stringify(line)}\n`)
        .join(''),
    );
    const lines = await BatchInput.read({ path: input, option: '--input' });
    const results = new BatchResults({
      output: '/dev/full',
      errors: '/dev/full',
      option: '--output',
      key: 'a',
      requests: 4,
    });
    const work = { input: lines, results, answer: async () => ok(1), client: 'c', atOnce: 2 };
    const running = runBatch({ ...work, signal: new AbortController().signal });
    await expect(running).rejects.toMatchObject({
      code: 'WRITE_FAILED',
      message: expect.stringMatching(/no space/i),
    });
    expect(results.completed).toBe(0);
    lines.close();
  });
});
