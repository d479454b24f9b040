// A hub that misbehaves: drops, delays, damages, refuses; and what is said about it.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Fault, failing, sendFile } from '../helpers/hub-server.js';
import { dropAfter, failureOf, setting, status, WEIGHTS } from '../helpers/hub-setting.js';

describe('a hub that misbehaves', () => {
  test('connections that drop are resumed where they broke', async () => {
    const { hub, resolve, pauses } = await setting();
    hub.faults = [failing('model.safetensors', 7, dropAfter(20_000))];
    const folder = await resolve();
    expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    const ranges = hub.downloads('model.safetensors').filter(({ storage }) => storage);
    expect(ranges).toHaveLength(8);
    const begins = ranges.map(({ range }) => Number(/\d+/.exec(range ?? '0')?.[0]));
    expect(begins).toEqual([...begins].sort((a, b) => a - b));
    expect(begins.at(-1)).toBeGreaterThan(0);
    // Progress begins the pauses anew, so seven drops do not count as seven failures.
    expect(Math.max(...pauses)).toBeLessThanOrEqual(4000);
  });

  test('429 and 503 wait as long as Retry-After says, other errors longer each time', async () => {
    const { hub, resolve, pauses } = await setting();
    const date = new Date(Date.now() + 3_600_000).toUTCString();
    hub.faults = [
      failing('main', 1, status(429, { 'retry-after': '17' })),
      failing('model.safetensors', 2, status(500), 'HEAD'),
      failing('model.safetensors', 1, status(503, { 'retry-after': '3' })),
    ];
    await resolve();
    expect(pauses).toEqual([17_000, 1000, 2000, 3000]);
    hub.faults = [failing('other', 1, status(503, { 'retry-after': date }))];
    const error = await failureOf(resolve({ revision: 'other' }));
    expect(error).toMatchObject({ code: 'DOWNLOAD_FAILED' });
    expect(error.message).toMatch(/answered 503; the server asks to wait 3\d\d\d s/);
  });

  test('a server that never recovers is given up', async () => {
    const { hub, resolve, pauses } = await setting();
    hub.faults = [failing('config.json', 99, status(502), 'HEAD')];
    const error = await failureOf(resolve());
    expect(error).toMatchObject({ code: 'DOWNLOAD_FAILED' });
    expect(error.message).toMatch(/config.json: the server answered 502; 4 attempts in a row failed/);
    expect(pauses.slice(0, 3)).toEqual([1000, 2000, 4000]);
  });

  test('a server that falls silent counts as a dropped connection', async () => {
    const { hub, resolve } = await setting();
    const silent: Fault = (request, response, content) => {
      if (!request.storage) return false;
      response.writeHead(200, { 'content-length': content.length });
      response.write(content.subarray(0, 5000));
      return true;
    };
    hub.faults = [failing('model.safetensors', 1, silent)];
    const folder = await resolve({ stallMs: 300 });
    expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    expect(hub.downloads('model.safetensors').at(-1)?.range).toBe('bytes=5000-');
  });

  test.each([
    ['too short', WEIGHTS.subarray(0, 150_000), /ended after 150000 of the 200000 bytes/],
    ['too long', Buffer.concat([WEIGHTS, Buffer.from('x')]), /sent more than the 200000 bytes/],
  ])('a content that is %s', async (_what, content, message) => {
    const { hub, resolve, blob } = await setting();
    const wrong: Fault = (request, response) => {
      if (!request.storage) return false;
      // Without a length, only what was announced tells.
      response.writeHead(200).end(content);
      return true;
    };
    hub.faults = [failing('model.safetensors', 99, wrong)];
    const error = await failureOf(resolve());
    expect(error).toMatchObject({ code: 'DOWNLOAD_FAILED' });
    expect(error.message).toMatch(message);
    expect(existsSync(blob(WEIGHTS))).toBe(false);
  });

  test('a wrong content is downloaded once more, and then refused', async () => {
    const damaged = Buffer.from(WEIGHTS);
    damaged.writeUInt8(damaged.readUInt8(99_999) ^ 1, 99_999);
    const wrong: Fault = (request, response) => {
      if (!request.storage) return false;
      sendFile(request, response, damaged);
      return true;
    };
    const once = await setting();
    once.hub.faults = [failing('model.safetensors', 1, wrong)];
    expect(readFileSync(join(await once.resolve(), 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    const twice = await setting();
    twice.hub.faults = [failing('model.safetensors', 9, wrong)];
    const error = await failureOf(twice.resolve());
    expect(error).toMatchObject({ code: 'DOWNLOAD_FAILED' });
    expect(error.message).toMatch(/another checksum than the hub says/);
    expect(existsSync(twice.blob(WEIGHTS))).toBe(false);
    expect(existsSync(join(twice.repo, 'refs', 'main'))).toBe(false);
  });

  test('a server that ignores ranges sends all again', async () => {
    const { hub, resolve } = await setting();
    const whole: Fault = (request, response, content) => {
      if (!request.storage || !request.range) return false;
      response.writeHead(200, { 'content-length': content.length }).end(content);
      return true;
    };
    hub.faults = [failing('model.safetensors', 1, dropAfter(60_000)), failing('model.safetensors', 9, whole)];
    expect(readFileSync(join(await resolve(), 'model.safetensors')).equals(WEIGHTS)).toBe(true);
  });

  test.each<[string, Fault, string, RegExp]>([
    [
      '404',
      status(404),
      'NOT_FOUND',
      /there is no folder 'org\/model'.*there is no revision 'main' of org\/model/,
    ],
    [
      'no such model',
      status(401, { 'x-error-code': 'RepoNotFound' }),
      'NOT_FOUND',
      /check the spelling.*HF_TOKEN/,
    ],
    [
      'no such revision',
      status(404, { 'x-error-code': 'RevisionNotFound' }),
      'NOT_FOUND',
      /no such revision/,
    ],
    ['gated', status(403, { 'x-error-code': 'GatedRepo' }), 'NO_ACCESS', /accept its terms on .*HF_TOKEN/],
    ['not logged in', status(401), 'NO_ACCESS', /\(401\).*set HF_TOKEN/],
    ['a bad request', status(400, { 'x-error-message': 'what?' }), 'DOWNLOAD_FAILED', /400, "what\?"/],
    [
      'a login page',
      (_q, response) => Boolean(response.end('<html>')),
      'DOWNLOAD_FAILED',
      /lists no files.*HF_ENDPOINT/,
    ],
    [
      'a commit that is a path',
      (_q, r) => Boolean(r.end('{"sha":"../x","siblings":[]}')),
      'DOWNLOAD_FAILED',
      /lists no files/,
    ],
    [
      'a redirect in circles',
      status(302, { location: '/x' }),
      'DOWNLOAD_FAILED',
      /redirected more than 10 times/,
    ],
    [
      'a redirect to a file',
      status(302, { location: 'file:///etc/passwd' }),
      'DOWNLOAD_FAILED',
      /redirected to/,
    ],
  ])('%s', async (_what, fault, code, message) => {
    const { hub, resolve } = await setting();
    hub.faults = [fault];
    const error = await failureOf(resolve());
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  test.each([
    ['no config.json', { 'model.safetensors': 'x' }, 'NOT_FOUND', /no config.json among its 1 files/],
    ['no weights', { 'config.json': '{}', 'README.md': 'x' }, 'NOT_FOUND', /no weights that can be read/],
    [
      'an index that leads elsewhere',
      { 'config.json': '{}', 'model.safetensors.index.json': '{"weight_map":{"a":"../../x.safetensors"}}' },
      'BAD_INDEX',
      /no .safetensors file in the folder of the checkpoint/,
    ],
    [
      'an index that names what is not there',
      { 'config.json': '{}', 'model.safetensors.index.json': '{"weight_map":{"a":"x.safetensors"}}' },
      'NOT_FOUND',
      /org\/model\/x.safetensors/,
    ],
  ])('a repository with %s', async (_what, files, code, message) => {
    const { resolve } = await setting(files);
    const error = await failureOf(resolve());
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  test('no hub at all: said at once, without trying again', async () => {
    const { hub, resolve, pauses } = await setting();
    const endpoint = hub.endpoint;
    await hub.stop();
    const error = await failureOf(resolve({ env: { HF_ENDPOINT: endpoint } }));
    expect(error.code).toBe('NOT_FOUND');
    expect(error.message).toMatch(/no folder 'org\/model'.*cannot be reached \(ECONNREFUSED\)/);
    expect(pauses).toEqual([]);
    expect((await failureOf(resolve({ env: { HF_ENDPOINT: 'hub' } }))).code).toBe('BAD_OPTION');
  });

  test('one failing file stops the others, and more than the drive holds is refused before it begins', async () => {
    const { hub, resolve } = await setting();
    hub.faults = [
      failing(
        'model.safetensors',
        9,
        status(302, { 'x-linked-etag': 'a'.repeat(64), 'x-linked-size': '9'.repeat(15) }),
        'HEAD',
      ),
    ];
    const error = await failureOf(resolve());
    expect(error.code).toBe('NO_SPACE');
    expect(error.message).toMatch(/909 TiB .* free: make space, or set HF_HUB_CACHE/);
    expect(hub.downloads('model.safetensors')).toEqual([]);
  });
});
