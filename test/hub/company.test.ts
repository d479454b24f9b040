// Downloads that are interrupted, resumed, or under way in several processes at once.

import { execFile } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, test } from 'vitest';
import type { RetryPolicy } from '../../src/hub/retry.js';
import { type Fault, failing } from '../helpers/hub-server.js';
import { dropAfter, failureOf, setting, WEIGHTS } from '../helpers/hub-setting.js';

describe('interruption and company', () => {
  test('an aborted download keeps what it has, and the next one resumes it', async () => {
    const { hub, resolve, blob } = await setting();
    const stop = new AbortController();
    hub.faults = [failing('model.safetensors', 1, dropAfter(60_000))];
    const error = await failureOf(
      resolve({
        signal: stop.signal,
        onProgress: ({ doneBytes }) => {
          if (doneBytes > 0) stop.abort();
        },
      }),
    );
    expect(error.code).toBe('INTERRUPTED');
    const partial = `${blob(WEIGHTS)}.incomplete`;
    const kept = readFileSync(partial);
    expect(kept.length).toBeGreaterThan(0);
    expect(WEIGHTS.subarray(0, kept.length).equals(kept)).toBe(true);
    hub.requests.length = 0;
    const seen: number[] = [];
    const folder = await resolve({ onProgress: ({ doneBytes }) => seen.push(doneBytes) });
    expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    expect(hub.downloads('model.safetensors')[0]?.range).toBe(`bytes=${kept.length}-`);
    expect(existsSync(partial)).toBe(false);
  });

  test.each([
    ['complete', WEIGHTS, false],
    ['too long', Buffer.concat([WEIGHTS, WEIGHTS]), true],
    ['of other bytes', Buffer.alloc(1000), true],
  ])('a partial file that is %s', async (_what, content, downloads) => {
    const { hub, resolve, blob, repo } = await setting();
    mkdirSync(join(repo, 'blobs'), { recursive: true });
    const partial = `${blob(WEIGHTS)}.incomplete`;
    writeFileSync(partial, content);
    utimesSync(partial, 1e9, 1e9);
    const folder = await resolve();
    expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    expect(hub.downloads('model.safetensors').length > 0).toBe(downloads);
  });

  test('a blob of the wrong length is replaced', async () => {
    const { resolve, blob } = await setting();
    const folder = await resolve();
    truncateSync(blob(WEIGHTS), 1000);
    rmSync(join(folder, 'model.safetensors'));
    await resolve();
    expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
  });

  test('two downloads at once share the work', async () => {
    const { hub, resolve } = await setting();
    const pause: RetryPolicy['pause'] = (ms) => new Promise((done) => setTimeout(done, ms / 50));
    const retries: RetryPolicy = { attempts: 4, firstPauseMs: 1000, maxPauseMs: 1000, pause };
    const folders = await Promise.all(Array.from({ length: 4 }, () => resolve({ retries })));
    expect(new Set(folders).size).toBe(1);
    expect(readFileSync(join(folders[0] ?? '', 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    expect(hub.downloads('model.safetensors').filter(({ storage }) => storage).length).toBeLessThanOrEqual(4);
  });
});

test('a process that is killed half-way is resumed by two others at once', async () => {
  const { hub, cacheFolder, blob, resolve } = await setting();
  const script = pathToFileURL(join(process.cwd(), 'dist', 'src', 'hub', 'model-folder.js')).href;
  const env = { ...process.env, HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cacheFolder, HF_HOME: cacheFolder };
  const program = `const { resolveModelFolder } = await import(${JSON.stringify(script)});
    console.log(await resolveModelFolder('org/model'));`;
  const run = () => {
    const child = execFile(process.execPath, ['--input-type=module', '-e', program], { env });
    return { child, ended: new Promise<number | null>((done) => child.once('exit', done)) };
  };
  const slow: Fault = (request, response, content) => {
    if (!request.storage) return false;
    response.writeHead(200, { 'content-length': content.length });
    response.write(content.subarray(0, 50_000));
    return true;
  };
  hub.faults = [failing('model.safetensors', 1, slow)];
  const first = run();
  const partial = `${blob(WEIGHTS)}.incomplete`;
  while ((statSync(partial, { throwIfNoEntry: false })?.size ?? 0) < 50_000) {
    if (first.child.exitCode !== null) throw new Error('the first process ended; is dist/ built?');
    await new Promise((done) => setTimeout(done, 20));
  }
  first.child.kill('SIGKILL');
  await first.ended;
  const others = [run(), run()];
  expect(await Promise.all(others.map(({ ended }) => ended))).toEqual([0, 0]);
  expect(readFileSync(join(await resolve(), 'model.safetensors')).equals(WEIGHTS)).toBe(true);
  const resumed = hub.downloads('model.safetensors').filter(({ storage }) => storage);
  expect(resumed[1]?.range).toBe('bytes=50000-');
});
