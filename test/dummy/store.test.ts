// Random weights that are found again: made once, by one writer, and taken for what they are only where they are it.

import {
  appendFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ensureDummyCheckpoint } from '../../src/dummy/store.js';
import { type DummyTensor, writeDummyCheckpoint } from '../../src/dummy/weights.js';
import { keepingTime, overwrite } from '../helpers/overwrite.js';
import { failureOf } from '../helpers/staging.js';
import { tempFolder } from '../helpers/temp-folder.js';

const CONFIG = { model_type: 'tiny', dtype: 'bfloat16' };
const TENSORS: readonly DummyTensor[] = [
  { name: 'embed.weight', shape: [300, 128], dtype: 'BF16' },
  { name: 'h.0.ln_1.weight', shape: [128], dtype: 'BF16' },
  { name: 'lm_head.weight', shape: [300, 128], dtype: 'BF16' },
];
const SHARDS = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'] as const;
const OPTIONS = { config: CONFIG, tensors: TENSORS, seed: 1, maxShardBytes: 80_000 };

interface Seen {
  readonly log: string[];
  readonly phases: Set<string>;
}

async function ensure(folder: string, more: { readonly signal?: AbortSignal } = {}): Promise<Seen> {
  const seen: Seen = { log: [], phases: new Set() };
  await ensureDummyCheckpoint({
    ...OPTIONS,
    ...more,
    folder,
    log: (message) => seen.log.push(message),
    onWait: (holder) => seen.log.push(`waits for ${holder}`),
    onProgress: (_done, _total, phase) => seen.phases.add(phase),
  });
  return seen;
}

const newFolder = () => join(tempFolder(), 'made');

describe('what the system does not tell', () => {
  it.each([SHARDS[0], 'config.json', 'zero-inference-dummy.json'])('is no absence: %s', async (name) => {
    const folder = newFolder();
    await ensure(folder);
    rmSync(join(folder, name));
    // Asking for it fails, and not because there is nothing.
    symlinkSync(name, join(folder, name));
    const { code, message } = await failureOf(ensure(folder));
    expect(message).toContain(name);
    expect(message).not.toContain('remove the folder');
    expect(['NOT_FOUND', 'BAD_INPUT']).toContain(code);
  });
});

describe('random weights', () => {
  it('are written once and found again without reading them', async () => {
    const folder = newFolder();
    expect((await ensure(folder)).phases).toEqual(new Set(['write']));
    const inodes = SHARDS.map((name) => statSync(join(folder, name)).ino);
    expect(await ensure(folder)).toEqual({ log: [], phases: new Set() });
    expect(SHARDS.map((name) => statSync(join(folder, name)).ino)).toEqual(inodes);
    expect(readdirSync(join(folder, '..'))).toEqual(['made']);
  });

  it('have one writer: the others wait and find them', async () => {
    const folder = newFolder();
    const all = await Promise.all(Array.from({ length: 4 }, () => ensure(folder)));
    const said = all.flatMap(({ log }) => log);
    expect(said.filter((line) => /^writing random weights/.test(line))).toHaveLength(1);
    expect(said.some((line) => /^waits for process/.test(line))).toBe(true);
    expect(readdirSync(join(folder, '..'))).toEqual(['made']);
    await expect(writeDummyCheckpoint({ ...OPTIONS, folder })).rejects.toMatchObject({
      code: 'WRITE_FAILED',
    });
  });

  it('are made where a killed writer left its files, and leave none', async () => {
    const folder = newFolder();
    mkdirSync(`${folder}.partial`);
    writeFileSync(join(`${folder}.partial`, 'model-00001-of-00009.safetensors'), 'half');
    writeFileSync(`${folder}.lock`, '{"host":"elsewhere","pid":1,"started":""}');
    await ensure(folder);
    expect(readdirSync(join(folder, '..'))).toEqual(['made']);
    expect(readdirSync(folder).sort()).toEqual(
      ['config.json', ...SHARDS, 'model.safetensors.index.json', 'zero-inference-dummy.json'].sort(),
    );
  });

  it('leave nothing when interrupted, and say so', async () => {
    const folder = newFolder();
    expect((await failureOf(ensure(folder, { signal: AbortSignal.abort() }))).code).toBe('INTERRUPTED');
    expect(readdirSync(join(folder, '..'))).toEqual([]);
  });

  it.each<[string, (folder: string) => void]>([
    ['touched', (folder) => utimesSync(join(folder, SHARDS[0]), 1, 1)],
    ['made by an earlier version', (folder) => rmSync(join(folder, 'zero-inference-dummy.json'))],
    ['recorded by something else', (folder) => writeFileSync(join(folder, 'zero-inference-dummy.json'), '{')],
    [
      'copied',
      (folder) => {
        cpSync(folder, `${folder}.copy`, { recursive: true });
        rmSync(folder, { recursive: true });
        cpSync(`${folder}.copy`, folder, { recursive: true });
      },
    ],
  ])('are compared once where they were %s, and kept', async (_, change) => {
    const folder = newFolder();
    await ensure(folder);
    const content = readFileSync(join(folder, SHARDS[1]));
    change(folder);
    expect((await ensure(folder)).phases).toEqual(new Set(['compare']));
    expect(await ensure(folder)).toEqual({ log: [], phases: new Set() });
    expect(readFileSync(join(folder, SHARDS[1])).equals(content)).toBe(true);
  });

  it.each<[string, RegExp, (folder: string) => void]>([
    [
      'a byte is another, with size and time as they were',
      /has another model-00002/,
      (folder) => {
        const path = join(folder, SHARDS[1]);
        keepingTime(path, () => overwrite(path, 50_000, Buffer.from([1])));
      },
    ],
    ['a shard is half', /has another model-00001/, (folder) => truncateSync(join(folder, SHARDS[0]), 40_000)],
    [
      'a shard is too long',
      /has another model-00001/,
      (folder) => appendFileSync(join(folder, SHARDS[0]), 'x'),
    ],
    ['a shard is missing', /has another model-00002.*or none/, (folder) => rmSync(join(folder, SHARDS[1]))],
    [
      'the configuration is another',
      /has another config\.json/,
      (folder) => writeFileSync(join(folder, 'config.json'), '{}'),
    ],
    [
      'the index is another',
      /has another model\.safetensors\.index\.json/,
      (folder) => writeFileSync(join(folder, 'model.safetensors.index.json'), '{}'),
    ],
    [
      'other weights lie there too',
      /holds model\.safetensors as well/,
      (folder) => writeFileSync(join(folder, 'model.safetensors'), 'x'),
    ],
    [
      'it is somebody’s own',
      /has another config\.json/,
      (folder) => {
        rmSync(folder, { recursive: true });
        mkdirSync(folder);
        writeFileSync(join(folder, 'notes.txt'), 'mine');
      },
    ],
  ])('are refused where %s', async (_, words, change) => {
    const folder = newFolder();
    await ensure(folder);
    change(folder);
    const before = readdirSync(folder);
    for (let i = 0; i < 2; i++) {
      const error = await failureOf(ensure(folder));
      expect(error.code).toBe('WRITE_FAILED');
      expect(error.message).toMatch(words);
      expect(error.message).toMatch(/remove the folder, and they are made again$/);
    }
    expect(readdirSync(folder)).toEqual(before);
  });

  it('do not fit: no folder is made for nothing', async () => {
    const parent = tempFolder();
    const folder = join(parent, 'new', 'made');
    const tensors: DummyTensor[] = [{ name: 'w.weight', shape: [2 ** 25, 2 ** 25], dtype: 'F16' }];
    expect((await failureOf(ensureDummyCheckpoint({ ...OPTIONS, tensors, folder }))).code).toBe('NO_SPACE');
    expect(readdirSync(parent)).toEqual([]);
  });
});
