// Opening a checkpoint folder: which files count, where tensors lie, and what is said when something is missing.

import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { OperatingError } from '../../offload/errors.js';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { parseWeightMap } from '../../src/checkpoint/weight-files.js';
import { modelFolder } from '../helpers/fixtures.js';
import { randomFrom, randomInt } from '../helpers/random.js';
import { writeSafetensors } from '../helpers/safetensors.js';
import { tempFolder } from '../helpers/temp-folder.js';

/** A folder with config.json and the given files: objects are written as JSON, lists as safetensors of one f32 each. */
function folderOf(files: Readonly<Record<string, unknown>>): string {
  const folder = tempFolder();
  for (const [name, content] of Object.entries({ 'config.json': { model_type: 'test' }, ...files })) {
    if (content === undefined) continue;
    const path = join(folder, name);
    if (typeof content === 'string') writeFileSync(path, content);
    else if (Array.isArray(content)) {
      writeSafetensors(
        path,
        content.map((tensor) => ({ name: String(tensor), dtype: 'F32', shape: [1] })),
      );
    } else writeFileSync(path, JSON.stringify(content));
  }
  return folder;
}

async function failureOf(folder: string): Promise<OperatingError> {
  const error: unknown = await openCheckpoint(folder).catch((thrown: unknown) => thrown);
  if (!(error instanceof OperatingError))
    throw new Error(`expected an operating error, got ${String(error)}`);
  return error;
}

const INDEX = 'model.safetensors.index.json';

test('a checkpoint of one file', async () => {
  const checkpoint = await openCheckpoint(modelFolder('bloom'));
  expect(checkpoint.config.model_type).toBe('bloom');
  expect(checkpoint.generationConfig.eos_token_id).toBe(2);
  expect(checkpoint.files).toEqual([join(modelFolder('bloom'), 'model.safetensors')]);
  const tensor = checkpoint.find('transformer.word_embeddings.weight');
  expect(tensor).toMatchObject({ dtype: 'F16', shape: [384, 64], fileIndex: 0, sizeBytes: 384 * 64 * 2 });
  expect(checkpoint.find('absent')).toBeUndefined();
  const sum = [...checkpoint.tensors.values()].reduce((bytes, t) => bytes + t.sizeBytes, 0);
  expect(checkpoint.totalBytes).toBe(sum);
});

test.each(['bloom-6-heads', 'llama3-rope'])('a sharded checkpoint: %s', async (name) => {
  const folder = modelFolder(name);
  const checkpoint = await openCheckpoint(folder);
  const shards = readdirSync(folder).filter((file) => file.endsWith('.safetensors'));
  expect(checkpoint.files).toEqual(shards.sort().map((file) => join(folder, file)));
  const used = new Set([...checkpoint.tensors.values()].map((tensor) => tensor.fileIndex));
  expect(used.size).toBe(shards.length);
});

test('the index decides which files are opened, and what they hold decides the rest', async () => {
  const folder = folderOf({
    [INDEX]: { weight_map: { a: 'x.safetensors', b: 'y.safetensors' } },
    'x.safetensors': ['a', 'b'],
    'y.safetensors': ['pad', 'b', 'unlisted'],
    'z.safetensors': 'not opened',
  });
  const checkpoint = await openCheckpoint(folder);
  expect([...checkpoint.tensors.keys()]).toEqual(['a', 'b', 'pad', 'unlisted']);
  expect(checkpoint.find('b')?.fileIndex).toBe(1);
  expect([...checkpoint.repeated]).toMatchObject([['b', { fileIndex: 0 }]]);
  expect(checkpoint.unfound.size).toBe(0);
  expect(checkpoint.generationConfig).toEqual({});
});

test('a relative folder, a lone file of another name, and files that are links', async () => {
  const folder = folderOf({ 'weights.safetensors': ['a'] });
  const linked = folderOf({});
  symlinkSync(join(folder, 'weights.safetensors'), join(linked, 'model.safetensors'));
  expect((await openCheckpoint(folder)).files).toEqual([join(folder, 'weights.safetensors')]);
  expect((await openCheckpoint(linked)).find('a')).toBeDefined();
  expect((await openCheckpoint('test/fixtures/models/gpt2')).folder).toBe(modelFolder('gpt2'));
});

test('hundreds of shards', async () => {
  const weightMap: Record<string, string> = {};
  const files: Record<string, unknown> = {};
  for (let i = 0; i < 300; i++) {
    const shard = `model-${String(i).padStart(5, '0')}-of-00300.safetensors`;
    weightMap[`t${i}`] = shard;
    files[shard] = [`t${i}`];
  }
  const checkpoint = await openCheckpoint(folderOf({ ...files, [INDEX]: { weight_map: weightMap } }));
  expect(checkpoint.files).toHaveLength(300);
  for (let i = 0; i < 300; i++) expect(checkpoint.find(`t${i}`)?.fileIndex).toBe(i);
});

test.each<[string, Record<string, unknown>, string, RegExp]>([
  ['no config.json', { 'config.json': undefined }, 'NOT_FOUND', /has no config.json/],
  ['config.json not JSON', { 'config.json': '{' }, 'BAD_CONFIG', /config.json is not JSON/],
  ['config.json a list', { 'config.json': '[]' }, 'BAD_CONFIG', /not an object/],
  [
    'generation_config.json broken',
    { 'generation_config.json': '' },
    'BAD_CONFIG',
    /generation_config.json is not/,
  ],
  ['no weights', {}, 'NOT_FOUND', /no weights: neither model.safetensors nor/],
  ['a .bin file that is none', { 'pytorch_model.bin': 'x' }, 'BAD_TORCH_FILE', /is no PyTorch file/],
  [
    'only other .bin files',
    { 'optimizer.bin': 'x' },
    'UNSUPPORTED',
    /optimizer.bin.*convert them to safetensors/,
  ],
  [
    'shards without an index',
    { 'a.safetensors': ['a'], 'b.safetensors': ['b'] },
    'BAD_INDEX',
    /2 safetensors files/,
  ],
  ['index not JSON', { [INDEX]: 'x' }, 'BAD_INDEX', /not JSON/],
  ['index without a map', { [INDEX]: {} }, 'BAD_INDEX', /no object 'weight_map'/],
  ['index with an empty map', { [INDEX]: { weight_map: {} } }, 'BAD_INDEX', /empty 'weight_map'/],
  [
    'absent shards',
    { [INDEX]: { weight_map: { a: 'a.safetensors', b: 'b.safetensors' } }, 'b.safetensors': ['b'] },
    'BAD_INDEX',
    /names 2 files, of which 1 are absent \(the first: a.safetensors\)/,
  ],
  [
    'a shard that is no safetensors file',
    { 'model.safetensors': 'x'.repeat(99) },
    'BAD_SAFETENSORS',
    /model.safetensors/,
  ],
])('refuses: %s', async (_what, files, code, message) => {
  const error = await failureOf(folderOf(files));
  expect(error.code).toBe(code);
  expect(error.message).toMatch(message);
});

test.each([
  '../a.safetensors',
  '/etc/a.safetensors',
  'a/../../b.safetensors',
  'a//b.safetensors',
  './b.safetensors',
  'a\\b.safetensors',
  'a.bin',
  '',
  7,
  null,
])('refuses the shard name %j', (shard) => {
  expect(() => parseWeightMap({ w: shard }, INDEX)).toThrow(
    /no .safetensors file in the folder of the checkpoint/,
  );
});

test('a folder that does not exist, and a file in place of a folder', async () => {
  const absent = await failureOf('no/such/folder');
  expect(absent).toMatchObject({ code: 'NOT_FOUND' });
  expect(absent.message).toMatch(/there is no folder 'no\/such\/folder'/);
  const file = await failureOf(join(modelFolder('bloom'), 'config.json'));
  expect(file.message).toMatch(/is a file: give the folder/);
});

test('a folder in place of config.json is reported, not thrown raw', async () => {
  const folder = folderOf({ 'config.json': undefined });
  mkdirSync(join(folder, 'config.json'));
  expect((await failureOf(folder)).message).toMatch(/config.json is a folder, not a regular file/);
});

test('fuzz: any weight map is read or refused with an operating error', () => {
  const random = randomFrom(7);
  const values: unknown[] = [
    'a.safetensors',
    '..',
    '.safetensors',
    '\0.safetensors',
    1,
    null,
    [],
    {},
    true,
    'x/../y',
  ];
  const pick = () => values[randomInt(random, values.length)];
  for (let round = 0; round < 2000; round++) {
    const map: unknown = random() < 0.1 ? pick() : { a: pick(), ['__proto__']: pick(), b: 'b.safetensors' };
    try {
      for (const shard of parseWeightMap(map, INDEX).values())
        expect(shard).toMatch(/^[^/\\]*\.safetensors$/);
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error;
    }
  }
});
