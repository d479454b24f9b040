// What a server promises beside its answers: who may ask, how much, what becomes of those who leave, and how it ends.

import { request } from 'node:http';
import { afterEach, describe, expect, it } from 'vitest';
import { usualBodyBytes } from '../../src/server/body.js';
import { sharedFolder } from '../helpers/temp-folder.js';
import { chatModel, exchange, type Listening, listen, until } from './listening.js';

it('a request may have as many bytes as its context can hold, unless somebody says how many', () => {
  const [few, many, unknown] = [4096, 2 ** 20, undefined].map(usualBodyBytes);
  expect([few, many, unknown]).toEqual([2 ** 20, 2 ** 24, 2 ** 22]);
});

const MODEL = chatModel(sharedFolder()());
const open: Listening[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) await server.close();
});

async function started(
  ...args: Parameters<typeof listen> extends [string, ...infer R] ? R : never
): Promise<Listening> {
  const server = await listen(MODEL, ...args);
  open.push(server);
  return server;
}

const JSON_TYPE = { 'content-type': 'application/json' };
const LONG = { prompt: 'KING:', max_tokens: 200, ignore_eos: true, temperature: 0 };

function post(server: Listening, path: string, body: unknown, headers: object = {}): Promise<Response> {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return fetch(server.address + path, { method: 'POST', body: text, headers: { ...JSON_TYPE, ...headers } });
}

async function errorOf(
  response: Response,
): Promise<{ status: number; code: string | null; message: string }> {
  const { error } = (await response.json()) as { error: { code: string | null; message: string } };
  return { status: response.status, ...error };
}

describe('who may ask', () => {
  it('without a key, this machine by its own names alone', async () => {
    const server = await started();
    const asked = (host: string) =>
      exchange(server.address, `GET /v1/models HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    expect(await asked('localhost:80')).toContain('200 OK');
    expect(await asked('[::1]')).toContain('200 OK');
    expect(await asked('evil.example')).toContain('403 Forbidden');
    expect(await asked('127.0.0.1.evil.example')).toContain('403 Forbidden');
  });

  it('with keys, whoever has one of them, and health is for everybody', async () => {
    const server = await started({ keys: ['first-long-key', 'second-long-key'] });
    const get = (path: string, key?: string) =>
      fetch(server.address + path, key === undefined ? {} : { headers: { authorization: `Bearer ${key}` } });
    expect((await get('/v1/models', 'second-long-key')).status).toBe(200);
    expect((await get('/v1/models', 'second-long-kez')).status).toBe(401);
    expect((await get('/v1/models')).status).toBe(401);
    expect((await get('/metrics')).status).toBe(401);
    expect((await get('/nowhere')).status).toBe(401);
    expect((await get('/health')).status).toBe(200);
  });
});

describe('bodies', () => {
  it.each([
    ['too deep', '['.repeat(65) + ']'.repeat(65), 400],
    ['cut', '{"prompt": "a', 400],
    ['empty', '', 400],
    ['too long', `"${'a'.repeat(2 ** 20)}"`, 413],
    ['with a prototype', '{"__proto__": {"prompt": "a"}, "constructor": 1}', 400],
  ])('%s are refused', async (_, body, status) => {
    const server = await started();
    const error = await errorOf(await post(server, '/v1/completions', body));
    expect(error.status).toBe(status);
    expect(error.message.length).toBeGreaterThan(10);
  });

  it('of another type are refused, as a page from elsewhere would send them', async () => {
    const server = await started();
    const response = await post(server, '/v1/completions', LONG, { 'content-type': 'text/plain' });
    expect((await errorOf(response)).status).toBe(415);
    expect(response.headers.get('x-content-type-options')).toBe('nosniff');
    expect(response.headers.get('content-security-policy')).toContain("default-src 'self'");
  });

  it('are in no log unless that is asked for', async () => {
    const silent = await started();
    await post(silent, '/v1/completions', { prompt: 'secret', max_tokens: 1 });
    await post(silent, '/v1/completions', { prompt: 'secret', max_tokens: 0 });
    expect(silent.logs).toEqual([]);
    const telling = await started({ logsBodies: true });
    await post(telling, '/v1/completions', { prompt: 'secret', max_tokens: 1 });
    expect(telling.logs.join()).toContain('secret');
  });
});

describe('limits', () => {
  it('requests beyond them are told when to come again', async () => {
    const server = await started({
      limits: { requests: 2, requestsOfClient: 2, tokens: 1e9, bytes: 2 ** 26 },
    });
    const leave = new AbortController();
    const held = [1, 2].map(() =>
      fetch(`${server.address}/v1/completions`, {
        method: 'POST',
        headers: JSON_TYPE,
        body: JSON.stringify({ ...LONG, stream: true }),
        signal: leave.signal,
      }),
    );
    await Promise.all(held);
    const refused = await post(server, '/v1/completions', LONG);
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
    expect(await errorOf(refused)).toMatchObject({ status: 429, code: 'rate_limit_exceeded' });
    leave.abort();
    await server.engine.whenIdle();
    await until(() => server.engine.prefixCounts.promptTokens > 0);
    let again = await post(server, '/v1/completions', { ...LONG, max_tokens: 1 });
    while (again.status === 429) again = await post(server, '/v1/completions', { ...LONG, max_tokens: 1 });
    expect(again.status).toBe(200);
  });

  it('so are texts that would come to more tokens', async () => {
    const server = await started({
      limits: { requests: 9, requestsOfClient: 9, tokens: 250, bytes: 2 ** 26 },
    });
    const response = await post(server, '/v1/completions', { ...LONG, n: 1, stream: true });
    expect(response.status).toBe(200);
    expect((await post(server, '/v1/completions', LONG)).status).toBe(429);
    await response.text();
    // One request alone is let in, whatever it comes to.
    expect((await post(server, '/v1/completions', { ...LONG, n: 4 })).status).toBe(200);
  });
});

it('a client that leaves is worked for no longer', async () => {
  const server = await started();
  let passes = 0;
  const submit = server.engine.executor.run.bind(server.engine.executor);
  server.engine.executor.run = (...args) => {
    passes++;
    return submit(...args);
  };
  const leaving = request(`${server.address}/v1/completions`, { method: 'POST', headers: JSON_TYPE });
  leaving.on('error', () => undefined);
  leaving.end(JSON.stringify({ ...LONG, max_tokens: 240 }));
  await until(() => passes > 2);
  leaving.destroy();
  await server.engine.whenIdle();
  expect(passes).toBeLessThan(200);
});

it('ends when answers are there, and takes no further requests meanwhile', async () => {
  const server = await started();
  const response = await post(server, '/v1/completions', { ...LONG, stream: true });
  const drained = server.service.drain();
  const health = await fetch(`${server.address}/health`);
  expect(health.status).toBe(503);
  expect(await errorOf(await post(server, '/v1/completions', LONG))).toMatchObject({
    status: 503,
    code: 'shutting_down',
  });
  const text = await response.text();
  expect(text.match(/^data: \{/gm)?.length).toBeGreaterThan(100);
  expect(text.trimEnd().endsWith('data: [DONE]')).toBe(true);
  await drained;
  await expect(fetch(`${server.address}/health`)).rejects.toThrow();
});

it('a text that ends before its time is told as an error, and not as if it were whole', async () => {
  const server = await started();
  const response = await post(server, '/v1/completions', { ...LONG, stream: true });
  await server.engine.close();
  const text = await response.text();
  expect(text).toContain('"error"');
  expect(text).not.toContain('[DONE]');
});

it('says what it does and what can be asked', async () => {
  const server = await started();
  await post(server, '/v1/completions', { ...LONG, max_tokens: 3 });
  await post(server, '/v1/completions', { ...LONG, max_tokens: 0 });
  const metrics = await (await fetch(`${server.address}/metrics`)).text();
  const figure = (name: string) =>
    Number(new RegExp(`^zero_inference_${name.replace(/[{}]/g, '\\$&')} (.*)$`, 'm').exec(metrics)?.[1]);
  expect(figure('generated_tokens_total')).toBe(3);
  expect(figure('time_to_first_token_seconds_count')).toBe(1);
  expect(figure('requests_total{path="/v1/completions",status="400"}')).toBe(1);
  expect(figure('batch_capacity')).toBe(8);
  expect(figure('cache_lookups{cache="prefix_tokens",result="hit"}')).toBe(0);
  expect(metrics).toMatch(/zero_inference_hop_bytes\{hop="nvme→dram",owner="drive"\} [1-9]/);
  const { paths } = (await (await fetch(`${server.address}/openapi.json`)).json()) as {
    paths: Record<string, { post?: object }>;
  };
  expect(JSON.stringify(paths['/v1/chat/completions']?.post)).toContain('max_completion_tokens');
  expect((await errorOf(await fetch(`${server.address}/../etc/passwd`))).status).toBe(404);
});
