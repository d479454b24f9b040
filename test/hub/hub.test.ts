// Models by their hub id: what is downloaded, and the cache as Python's client lays it out.

import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { OperatingError } from '../../offload/errors.js';
import { readHubEnvironment } from '../../src/hub/environment.js';
import { type DownloadProgress, resolveModelFolder } from '../../src/hub/model-folder.js';
import { COMMIT, type Fault } from '../helpers/hub-server.js';
import { bytes, FILES, failureOf, setting, WEIGHTS } from '../helpers/hub-setting.js';
import { tempFolder } from '../helpers/temp-folder.js';

describe('a download', () => {
  test('brings only the files that are needed, into the layout of Python’s client', async () => {
    const { hub, resolve, repo, blob } = await setting();
    const seen: DownloadProgress[] = [];
    const folder = await resolve({ onProgress: (progress) => seen.push(progress) });
    expect(folder).toBe(join(repo, 'snapshots', COMMIT));
    const wanted = Object.keys(FILES).slice(0, 5);
    expect(readdirSync(folder).sort()).toEqual([...wanted].sort());
    for (const name of wanted) {
      expect(lstatSync(join(folder, name)).isSymbolicLink()).toBe(true);
      expect(readlinkSync(join(folder, name))).toMatch(/^\.\.\/\.\.\/blobs\/[0-9a-f]+$/);
      expect(readFileSync(join(folder, name)).equals(Buffer.from(FILES[name as keyof typeof FILES]))).toBe(
        true,
      );
    }
    expect(readFileSync(join(repo, 'refs', 'main'), 'utf8')).toBe(COMMIT);
    expect(existsSync(blob(WEIGHTS))).toBe(true);
    // generation_config.json and tokenizer_config.json have the same content: one blob.
    expect(readdirSync(join(repo, 'blobs'))).toHaveLength(4);
    expect(seen.at(-1)).toEqual({ doneBytes: 200_000, totalBytes: 200_000, doneFiles: 1, totalFiles: 1 });
    expect(hub.requests.filter(({ path }) => /README|onnx|\.bin/.test(path))).toEqual([]);
    // The second time nothing is asked.
    hub.requests.length = 0;
    expect(await resolve()).toBe(folder);
    expect(hub.requests).toEqual([]);
  });

  test('shards: those that the index names, in parallel but not all at once', async () => {
    const names = Array.from({ length: 30 }, (_, i) => `model-${i}.safetensors`);
    const index = JSON.stringify({ weight_map: Object.fromEntries(names.map((name, i) => [`t${i}`, name])) });
    const shards = Object.fromEntries(names.map((name) => [name, bytes(2000)]));
    const { hub, resolve } = await setting({
      'config.json': '{}',
      'model.safetensors.index.json': index,
      ...shards,
      'unlisted.safetensors': bytes(2000),
    });
    hub.largeBytes = 1e6;
    // Two at a time are let through, so that fewer would never end.
    const waiting: (() => void)[] = [];
    const pairs: Fault = ({ method, path }, response, content) => {
      if (method !== 'GET' || !/model-\d+\.safetensors$/.test(path)) return false;
      waiting.push(() => response.writeHead(200, { 'content-length': content.length }).end(content));
      if (waiting.length === 2) for (const answer of waiting.splice(0)) answer();
      return true;
    };
    hub.faults = [pairs];
    const folder = await resolve();
    expect(readdirSync(folder)).toHaveLength(32);
    for (const [name, content] of Object.entries(shards)) {
      expect(readFileSync(join(folder, name)).equals(content)).toBe(true);
    }
    expect(hub.mostAtOnce).toBeGreaterThan(1);
    expect(hub.mostAtOnce).toBeLessThanOrEqual(8);
  });

  test('shards of a checkpoint that also sees, but not those that hold nothing of its language model', async () => {
    const weight_map = {
      'language_model.model.embed_tokens.weight': 'model-1.safetensors',
      'vision_tower.patch_embed.weight': 'model-1.safetensors',
      'vision_tower.layers.0.weight': 'model-2.safetensors',
      'multi_modal_projector.linear.weight': 'model-2.safetensors',
      'language_model.model.norm.weight': 'model-3.safetensors',
      'mtp.layers.0.weight': 'model-4.safetensors',
    };
    const { hub, resolve } = await setting({
      'config.json': JSON.stringify({ model_type: 'gemma3', text_config: {}, vision_config: {} }),
      'model.safetensors.index.json': JSON.stringify({ weight_map }),
      ...Object.fromEntries([1, 2, 3, 4].map((i) => [`model-${i}.safetensors`, bytes(100)])),
    });
    const folder = await resolve();
    expect(readdirSync(folder).filter((name) => name.endsWith('.safetensors'))).toEqual([
      'model-1.safetensors',
      'model-3.safetensors',
    ]);
    hub.requests.length = 0;
    expect(await resolve()).toBe(folder);
    expect(hub.requests).toEqual([]);
  });

  test.each([
    ['.bin where there are no safetensors', { 'pytorch_model.bin': 'x' }, 'pytorch_model.bin'],
    ['a lone safetensors file of another name', { 'weights.safetensors': 'x' }, 'weights.safetensors'],
  ])('%s', async (_what, weights, name) => {
    const { resolve } = await setting({ 'config.json': '{}', ...weights });
    expect(readdirSync(await resolve())).toEqual(['config.json', name]);
  });

  test('a revision, its ref, and the token that only the hub may see', async () => {
    const { hub, resolve, repo } = await setting();
    const folder = await resolve({ revision: 'refs/pr/7', env: { HF_TOKEN: 'hf_secret' } });
    expect(hub.requests[0]?.path).toBe('/api/models/org/model/revision/refs/pr/7');
    expect(readFileSync(join(repo, 'refs', 'refs', 'pr', '7'), 'utf8')).toBe(COMMIT);
    expect(hub.requests.some(({ storage }) => storage)).toBe(true);
    for (const { storage, authorization } of hub.requests) {
      expect(authorization).toBe(storage ? undefined : 'Bearer hf_secret');
    }
    expect(await resolve({ revision: COMMIT })).toBe(folder);
    expect((await failureOf(resolve({ revision: '../../etc' }))).code).toBe('BAD_OPTION');
  });

  test('the stored token of a login', async () => {
    const { hub, resolve, cacheFolder } = await setting();
    writeFileSync(join(cacheFolder, 'token'), 'hf_stored\n');
    await resolve();
    expect(hub.requests[0]?.authorization).toBe('Bearer hf_stored');
  });

  test('a model can be refused before its weights are downloaded', async () => {
    const { hub, resolve } = await setting();
    const refusal = new OperatingError('UNSUPPORTED', 'not this one');
    const beforeWeights = (folder: string) => {
      expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe(FILES['config.json']);
      throw refusal;
    };
    expect(await failureOf(resolve({ beforeWeights }))).toBe(refusal);
    expect(hub.downloads('model.safetensors')).toEqual([]);
  });
});

describe('the cache', () => {
  test('a folder that exists wins, and what is no hub id is left alone', async () => {
    const { hub, resolve } = await setting();
    const folder = tempFolder();
    for (const name of [folder, 'test', '/no/such/folder', './x/y', 'a/b/c', 'no-shape.json', 'a..b/c', '']) {
      expect(await resolve({}, name)).toBe(name);
    }
    expect(hub.requests).toEqual([]);
  });

  test('what Python downloaded is used without asking, online or offline', async () => {
    const { hub, resolve, repo } = await setting();
    const folder = join(repo, 'snapshots', 'abc123');
    mkdirSync(folder, { recursive: true });
    mkdirSync(join(repo, 'refs'));
    mkdirSync(join(repo, 'blobs'));
    writeFileSync(join(repo, 'refs', 'main'), 'abc123');
    for (const name of ['config.json', 'pytorch_model.bin', 'tokenizer.json']) {
      writeFileSync(join(repo, 'blobs', name), '{}');
      symlinkSync(join('..', '..', 'blobs', name), join(folder, name));
    }
    expect(await resolve()).toBe(folder);
    expect(await resolve({ env: { HF_HUB_OFFLINE: '1' } })).toBe(folder);
    expect(hub.requests).toEqual([]);
    // A blob that was deleted leaves a link that leads nowhere.
    rmSync(join(repo, 'blobs', 'pytorch_model.bin'));
    const error = await failureOf(resolve({ env: { HF_HUB_OFFLINE: 'true' } }));
    expect(error.message).toMatch(/has no weights of that model .*unset HF_HUB_OFFLINE/);
    expect(await resolve()).toBe(join(repo, 'snapshots', COMMIT));
  });

  test('a snapshot without a tokenizer is completed, unless the hub has none', async () => {
    const { hub, resolve } = await setting();
    const folder = await resolve();
    rmSync(join(folder, 'tokenizer.json'));
    hub.requests.length = 0;
    await resolve();
    expect(existsSync(join(folder, 'tokenizer.json'))).toBe(true);
    hub.files.delete('tokenizer.json');
    hub.commit = 'd'.repeat(40);
    const bare = await resolve({ revision: 'bare' });
    hub.requests.length = 0;
    expect(await resolve({ revision: 'bare' })).toBe(bare);
    expect(hub.requests).toEqual([]);
  });

  test('offline and not cached', async () => {
    const { hub, resolve } = await setting();
    const error = await failureOf(resolve({ env: { HF_HUB_OFFLINE: '1' } }));
    expect(error).toMatchObject({ code: 'NOT_FOUND' });
    expect(error.message).toMatch(/no folder 'org\/model'.*no model of that name.*unset HF_HUB_OFFLINE/);
    expect(hub.requests).toEqual([]);
  });

  test('a copy of it without refs, or with files in the place of links', async () => {
    const { hub, resolve, repo } = await setting();
    const folder = join(repo, 'snapshots', COMMIT);
    mkdirSync(folder, { recursive: true });
    for (const name of ['config.json', 'model.safetensors', 'tokenizer.json'] as const)
      writeFileSync(join(folder, name), FILES[name]);
    // Python's client does not guess either which commit a branch was.
    const error = await failureOf(resolve({ env: { HF_HUB_OFFLINE: '1' } }));
    expect(error.message).toMatch(
      new RegExp(
        `has a snapshot of that model \\(${COMMIT}\\), but .* 'main' .*: give --revision ${COMMIT}, or unset`,
      ),
    );
    expect(await resolve({ revision: COMMIT, env: { HF_HUB_OFFLINE: '1' } })).toBe(folder);
    expect(hub.requests).toEqual([]);
    // Online the hub says which commit it is, and what is there is not fetched again.
    expect(await resolve()).toBe(folder);
    expect(hub.downloads('model.safetensors')).toEqual([]);
    mkdirSync(join(repo, 'snapshots', 'd'.repeat(40)));
    rmSync(join(repo, 'refs'), { recursive: true });
    const several = await failureOf(resolve({ env: { HF_HUB_OFFLINE: '1' } }));
    expect(several.message).toMatch(/has 2 snapshots of that model, .*or another of them/);
  });

  test('shards in a folder of the repository', async () => {
    const index = JSON.stringify({ weight_map: { a: 'weights/model 1.safetensors' } });
    const { resolve } = await setting({
      'config.json': '{}',
      'model.safetensors.index.json': index,
      'weights/model 1.safetensors': WEIGHTS,
    });
    const folder = await resolve();
    expect(readFileSync(join(folder, 'weights/model 1.safetensors')).equals(WEIGHTS)).toBe(true);
    expect(await resolve({ env: { HF_HUB_OFFLINE: '1' } })).toBe(folder);
  });

  test.each<[Record<string, string>, string]>([
    [{ HF_HUB_CACHE: 'BASE/X' }, 'X'],
    [{ HUGGINGFACE_HUB_CACHE: 'BASE/X', HF_HOME: '/no' }, 'X'],
    [{ HF_HOME: 'BASE/X' }, 'X/hub'],
    [{ HF_HOME: '~/X', HOME: 'BASE' }, 'X/hub'],
    [{ HF_HOME: `~/X$Y/$${'{Z Z}'}`, HOME: 'BASE/', Y: '1', 'Z Z': '$Y' }, 'X1/$Y/hub'],
    [{ HF_HUB_CACHE: '$TOP/a$', TOP: 'BASE' }, 'a$'],
    [{ HF_HUB_CACHE: 'BASE/$NOT_SET/~' }, '$NOT_SET/~'],
    [{ XDG_CACHE_HOME: 'BASE/X' }, 'X/huggingface/hub'],
    [{ XDG_CACHE_HOME: '$HOME/X', HOME: 'BASE', HF_HOME: '' }, 'X/huggingface/hub'],
    [{ HOME: 'BASE' }, '.cache/huggingface/hub'],
  ])('lies where %o says', async (variables, place) => {
    const base = tempFolder();
    const env = Object.fromEntries(
      Object.entries(variables).map(([key, value]) => [key, value.replace('BASE', base)]),
    );
    const folder = join(base, place, 'models--gpt2', 'snapshots', COMMIT);
    mkdirSync(folder, { recursive: true });
    for (const name of ['config.json', 'model.safetensors']) writeFileSync(join(folder, name), '{}');
    const offline = { ...env, HF_HUB_OFFLINE: 'on' };
    expect(await resolveModelFolder('gpt2', { revision: COMMIT, env: offline })).toBe(folder);
  });
});

describe('the environment', () => {
  const read = (env: Record<string, string>) => readHubEnvironment({ HOME: '/home/me', ...env });

  test('the home of another user, and of one that does not exist', async () => {
    expect((await read({ HF_HOME: '~root/x' })).cacheFolder).toBe('/root/x/hub');
    expect((await read({ HF_HOME: '~no such user/x' })).cacheFolder).toBe('~no such user/x/hub');
  });

  test('the endpoint', async () => {
    expect((await read({ HF_ENDPOINT: 'https://mirror.example/hub//' })).endpoint).toBe(
      'https://mirror.example/hub',
    );
    expect((await read({ HF_ENDPOINT: '' })).endpoint).toBe('https://huggingface.co');
    await expect(read({ HF_ENDPOINT: 'mirror.example' })).rejects.toThrow(/HF_ENDPOINT is 'mirror\.example'/);
  });

  test.each<[Record<string, string>, boolean]>([
    [{ HF_HUB_OFFLINE: '1' }, true],
    [{ HF_HUB_OFFLINE: 'Yes' }, true],
    [{ HF_HUB_OFFLINE: 'ON' }, true],
    [{ HF_HUB_OFFLINE: 'true' }, true],
    [{ HF_HUB_OFFLINE: '0' }, false],
    [{ HF_HUB_OFFLINE: 'no', TRANSFORMERS_OFFLINE: '1' }, false],
    [{ HF_HUB_OFFLINE: '', TRANSFORMERS_OFFLINE: '1' }, true],
    [{ HF_HUB_OFFLINE: '2' }, false],
  ])('offline by %o: %s', async (env, offline) => {
    expect((await read(env)).offline).toBe(offline);
  });

  test('the token: given, stored elsewhere, or none', async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, 'my token'), ' hf_\r\nabc\n');
    expect((await read({ HF_TOKEN: ' hf_a\nb ' })).token).toBe('hf_ab');
    expect((await read({ HF_TOKEN: ' ', HUGGING_FACE_HUB_TOKEN: 'hf_old' })).token).toBe('hf_old');
    expect((await read({ HF_TOKEN_PATH: '$D/my token', D: folder })).token).toBe('hf_abc');
    expect((await read({ HF_TOKEN_PATH: folder })).token).toBeUndefined();
    expect((await read({ HF_TOKEN_PATH: '/dev/zero' })).token).toBeUndefined();
    const silent = { HF_TOKEN_PATH: join(folder, 'my token'), HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' };
    expect((await read(silent)).token).toBeUndefined();
  });
});
