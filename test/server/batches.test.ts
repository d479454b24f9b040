// OpenAI's own client could not make batches: files, batches, their results, and what is refused of them.

import { readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import OpenAI, { toFile } from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { StoreFolder } from '../../src/batches/store-folder.js';
import { ServerExtras } from '../../src/server/extras.js';
import { Service } from '../../src/server/service.js';
import { type Served, serve } from '../api/served.js';
import { sharedFolder } from '../helpers/temp-folder.js';
import { chatModel } from './listening.js';

const newFolder = sharedFolder();
const KEYS = ['a-key-of-one-client', 'a-key-of-another-one'];
const log = { info: () => undefined, warn: () => undefined, error: () => undefined };

let served: Served;
let extras: ServerExtras;
let service: Service;
let data: string;
let url: string;
let client: OpenAI;
let other: OpenAI;

beforeAll(async () => {
  served = await serve(chatModel(newFolder()), { sequences: 4 });
  const { engine, model } = served;
  data = newFolder();
  const store = await StoreFolder.open(data);
  extras = new ServerExtras({ engine, model, data: store, log, mostFileBytes: 50_000 });
  const limits = { requests: 64, requestsOfClient: 64, tokens: 1e9, bytes: 1e9 };
  service = new Service(
    { engine, model, log, extra: extras.groups },
    {
      host: '127.0.0.1',
      port: 0,
      keys: KEYS,
      mostBodyBytes: 1e6,
      limits,
      maxWaitMs: 0,
      drainMs: 100,
      logsBodies: false,
    },
  );
  extras.start(service.api);
  url = await service.listen();
  [client, other] = KEYS.map((apiKey) => new OpenAI({ apiKey, baseURL: `${url}/v1`, maxRetries: 0 })) as [
    OpenAI,
    OpenAI,
  ];
});

afterAll(async () => {
  await extras.close();
  await service.close();
  await served.engine.close();
});

const BODY = {
  model: 'small',
  messages: [{ role: 'user', content: 'Who are you?' }],
  max_tokens: 8,
  temperature: 0,
} as const;

function upload(lines: readonly string[]) {
  return toFile(Buffer.from(lines.map((line) => `${line}\n`).join('')), 'requests.jsonl');
}

function request(id: string, body: object = BODY): string {
  return JSON.stringify({ custom_id: id, method: 'POST', url: '/v1/chat/completions', body });
}

async function ended(id: string): Promise<OpenAI.Batch> {
  for (;;) {
    const batch = await client.batches.retrieve(id);
    if (['completed', 'failed', 'cancelled'].includes(batch.status)) return batch;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const made = { endpoint: '/v1/chat/completions', completion_window: '24h' } as const;

describe('OpenAI’s client', () => {
  it('uploads a file, makes a batch of it, and reads results that are those of single requests', async () => {
    const ids = ['one', 'two', 'three', 'four', 'five', 'six'];
    const lines = [...ids.map((id) => request(id)), request('wrong', { ...BODY, max_tokens: -1 }), 'no JSON'];
    const file = await client.files.create({ file: await upload(lines), purpose: 'batch' });
    expect(file).toMatchObject({
      object: 'file',
      filename: 'requests.jsonl',
      purpose: 'batch',
      status: 'processed',
    });
    expect(await client.files.retrieve(file.id)).toEqual(file);
    const batch = await client.batches.create({
      ...made,
      input_file_id: file.id,
      metadata: { of: 'a test' },
    });
    expect(batch).toMatchObject({ object: 'batch', status: 'validating', metadata: { of: 'a test' } });
    const done = await ended(batch.id);
    expect(done).toMatchObject({
      status: 'completed',
      request_counts: { total: 8, completed: 6, failed: 2 },
    });
    const text = await (await client.files.content(done.output_file_id ?? '')).text();
    const results = text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    const single = await client.chat.completions.create({ ...BODY, messages: [...BODY.messages] });
    for (const { response, error } of results) {
      expect([response.status_code, error]).toEqual([200, null]);
      expect(response.body.choices).toEqual(JSON.parse(JSON.stringify(single.choices)));
    }
    expect(results.map((line) => line.custom_id).sort()).toEqual([...ids].sort());
    const errors = await (await client.files.content(done.error_file_id ?? '')).text();
    expect(errors).toMatch(/"custom_id":"wrong".*"status_code":400/);
    expect(errors).toMatch(/"code":"invalid_json","message":"line 8: the line is no JSON: /);
    const listed = await client.batches.list();
    expect(listed.data.map(({ id }) => id)).toContain(batch.id);
    expect(await client.files.delete(file.id)).toMatchObject({ deleted: true });
    await expect(client.files.retrieve(file.id)).rejects.toMatchObject({ status: 404 });
  });

  it('cancels a batch, and goes through lists page by page', async () => {
    const long = { ...BODY, max_tokens: 200 };
    const lines = Array.from({ length: 40 }, (_, index) => request(`r${index}`, long));
    const file = await client.files.create({ file: await upload(lines), purpose: 'batch' });
    const [first, second] = [
      await client.batches.create({ ...made, input_file_id: file.id }),
      await client.batches.create({ ...made, input_file_id: file.id }),
    ];
    await expect(client.files.delete(file.id)).rejects.toMatchObject({ status: 400, code: 'file_in_use' });
    // Interactive requests are answered while a batch has all places.
    const chat = await client.chat.completions.create({ ...BODY, messages: [...BODY.messages] });
    expect(chat.choices).toHaveLength(1);
    for (const { id } of [first, second]) expect((await client.batches.cancel(id)).status).toBe('cancelling');
    for (const { id } of [first, second]) expect((await ended(id)).status).toBe('cancelled');
    const found: string[] = [];
    for await (const batch of client.batches.list({ limit: 1 })) found.push(batch.id);
    expect(found.slice(0, 2)).toEqual([second.id, first.id]);
    expect(new Set(found).size).toBe(found.length);
  });

  it('sees what is its own, and nothing of other keys', async () => {
    const file = await client.files.create({ file: await upload([request('one')]), purpose: 'batch' });
    const batch = await client.batches.create({ ...made, input_file_id: file.id });
    await ended(batch.id);
    const asked = [
      other.files.retrieve(file.id),
      other.files.content(file.id),
      other.files.delete(file.id),
      other.batches.retrieve(batch.id),
      other.batches.cancel(batch.id),
    ];
    for (const one of asked) await expect(one).rejects.toMatchObject({ status: 404 });
    const created = other.batches.create({ ...made, input_file_id: file.id });
    await expect(created).rejects.toMatchObject({ status: 400, param: 'input_file_id' });
    expect((await other.files.list()).data).toEqual([]);
    expect((await other.batches.list()).data).toEqual([]);
  });

  it('is told what is wrong with a file or a batch', async () => {
    const file = await upload([request('one')]);
    const purpose = client.files.create({ file, purpose: 'fine-tune' });
    await expect(purpose).rejects.toMatchObject({ status: 400, param: 'purpose' });
    const empty = client.files.create({ file: await upload([]), purpose: 'batch' });
    await expect(empty).rejects.toMatchObject({ status: 400, param: 'file' });
    const unknown = client.batches.create({ ...made, input_file_id: 'file-../../etc/passwd' });
    await expect(unknown).rejects.toMatchObject({ status: 400, param: 'input_file_id' });
    const twice = await client.files.create({
      file: await upload([request('a'), request('a')]),
      purpose: 'batch',
    });
    const failed = await ended((await client.batches.create({ ...made, input_file_id: twice.id })).id);
    expect(failed.errors?.data?.[0]).toMatchObject({ code: 'duplicate_custom_id', line: 2 });
  });
});

describe('uploads', () => {
  const headers = { authorization: `Bearer ${KEYS[0]}` };
  const form = () => {
    const made = new FormData();
    made.set('purpose', 'batch');
    made.set('file', new Blob([`${request('one')}\n`]), '../../escape.jsonl');
    return made;
  };

  it('of pages from elsewhere are refused', async () => {
    const ask = (origin: string) =>
      fetch(`${url}/v1/files`, { method: 'POST', body: form(), headers: { ...headers, origin } });
    expect((await ask('https://elsewhere.example')).status).toBe(403);
    expect((await ask(url)).status).toBe(200);
  });

  it.each([
    ['no form', 'application/json', '{}'],
    [
      'a form cut short',
      'multipart/form-data; boundary=x',
      '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{',
    ],
    ['a form without a boundary', 'multipart/form-data', 'x'],
    [
      'fields alone',
      'multipart/form-data; boundary=x',
      '--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n',
    ],
  ])('that are %s are refused, and leave nothing', async (_, type, body) => {
    const before = (await client.files.list()).data.length;
    const response = await fetch(`${url}/v1/files`, {
      method: 'POST',
      body,
      headers: { ...headers, 'content-type': type },
    });
    expect(response.status).toBeGreaterThanOrEqual(400);
    expect(response.status).toBeLessThan(500);
    expect(await response.json()).toMatchObject({ error: { message: expect.any(String) } });
    expect((await client.files.list()).data).toHaveLength(before);
  });

  it('that are larger than a file may be are refused with its size, and leave nothing', async () => {
    const file = await upload([JSON.stringify('x'.repeat(60_000))]);
    await expect(client.files.create({ file, purpose: 'batch' })).rejects.toMatchObject({
      status: 413,
      code: 'file_too_large',
      message: expect.stringContaining('the file has more than 50000 bytes: cut it into several'),
    });
    expect(readdirSync(join(data, 'files')).filter((name) => name.endsWith('.partial'))).toEqual([]);
  });

  it('that cannot be stored are refused with a sentence of their own', async () => {
    const file = await upload([request('one')]);
    renameSync(join(data, 'files'), join(data, 'away'));
    try {
      await expect(client.files.create({ file, purpose: 'batch' })).rejects.toMatchObject({
        status: 507,
        code: 'storage_failed',
      });
    } finally {
      renameSync(join(data, 'away'), join(data, 'files'));
    }
  });
});
