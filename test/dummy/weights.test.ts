// Dummy checkpoints: valid files, the same bytes for the same seed, and nothing under the final name until complete.

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { type DummyTensor, writeDummyCheckpoint } from '../../src/dummy/weights.js';

const CONFIG = { model_type: 'tiny', dtype: 'bfloat16' };
const TENSORS: readonly DummyTensor[] = [
  { name: 'embed.weight', shape: [300, 128], dtype: 'BF16' },
  { name: 'h.0.ln_1.weight', shape: [128], dtype: 'F16' },
  { name: 'h.0.attn.bias', shape: [128], dtype: 'BF16' },
  { name: 'h.0.input_layernorm.weight', shape: [33], dtype: 'BF16' },
  { name: 'h.0.attn.weight', shape: [128, 128], dtype: 'F16' },
  { name: 'model.norm.weight', shape: [128], dtype: 'F32' },
  { name: 'lm_head.weight', shape: [300, 128], dtype: 'F32' },
];
const TOTAL_BYTES = 300 * 128 * 2 + 128 * 2 + 128 * 2 + 33 * 2 + 128 * 128 * 2 + 128 * 4 + 300 * 128 * 4;

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'zi-dummy-'));
});
afterAll(async () => {
  await rm(root, { recursive: true, force: true });
});

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

interface Shard {
  readonly header: Readonly<Record<string, Entry>>;
  readonly dataStart: number;
  readonly bytes: Buffer;
}

async function readShard(path: string): Promise<Shard> {
  const bytes = await readFile(path);
  const dataStart = 8 + Number(bytes.readBigUInt64LE());
  const { __metadata__, ...header } = JSON.parse(bytes.subarray(8, dataStart).toString());
  expect(__metadata__).toEqual({ format: 'pt' });
  return { header, dataStart, bytes };
}

function halfToNumber(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  return bits >> 15 ? -size : size;
}

function values(shard: Shard, name: string): number[] {
  const entry = shard.header[name];
  if (entry === undefined) throw new Error(`${name} is not in the shard`);
  const { dtype, data_offsets: offsets } = entry;
  const data = shard.bytes.subarray(shard.dataStart + offsets[0], shard.dataStart + offsets[1]);
  const unit = dtype === 'F32' ? 4 : 2;
  return Array.from({ length: data.length / unit }, (_, index) => {
    if (dtype === 'F32') return data.readFloatLE(index * 4);
    const bits = data.readUInt16LE(index * 2);
    if (dtype === 'F16') return halfToNumber(bits);
    const wide = Buffer.alloc(4);
    wide.writeUInt16LE(bits, 2);
    return wide.readFloatLE();
  });
}

function moments(sample: readonly number[]): { mean: number; deviation: number } {
  const mean = sample.reduce((sum, value) => sum + value, 0) / sample.length;
  const variance = sample.reduce((sum, value) => sum + (value - mean) ** 2, 0) / sample.length;
  return { mean, deviation: Math.sqrt(variance) };
}

async function digests(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder)).sort();
  const entries = names.map(async (name) => {
    const content = await readFile(join(folder, name));
    return [name, createHash('sha256').update(content).digest('hex')] as const;
  });
  return Object.fromEntries(await Promise.all(entries));
}

describe('writeDummyCheckpoint', () => {
  it('writes one valid file when all fits one shard', async () => {
    const folder = join(root, 'one');
    const made = await writeDummyCheckpoint({ config: CONFIG, tensors: TENSORS, folder, seed: 1 });
    expect(made).toEqual({ folder, shards: ['model.safetensors'], sizeBytes: TOTAL_BYTES });
    expect((await readdir(folder)).sort()).toEqual(['config.json', 'model.safetensors']);
    expect(JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))).toEqual(CONFIG);
    const shard = await readShard(join(folder, 'model.safetensors'));
    expect(shard.dataStart % 8).toBe(0);
    expect(shard.bytes.length).toBe(shard.dataStart + TOTAL_BYTES);
    let offset = 0;
    for (const { name, shape, dtype } of TENSORS) {
      const entry = shard.header[name];
      expect(entry).toMatchObject({ shape, dtype });
      expect(entry?.data_offsets[0]).toBe(offset);
      offset = entry?.data_offsets[1] ?? Number.NaN;
    }
    expect(offset).toBe(TOTAL_BYTES);
  });

  it('gives matrices small random values, norms ones and biases zeros, in every type', async () => {
    const folder = join(root, 'values');
    await writeDummyCheckpoint({ config: CONFIG, tensors: TENSORS, folder, seed: 2 });
    const shard = await readShard(join(folder, 'model.safetensors'));
    for (const name of ['embed.weight', 'h.0.attn.weight', 'lm_head.weight']) {
      const sample = values(shard, name);
      const { mean, deviation } = moments(sample);
      expect(Math.abs(mean)).toBeLessThan(0.001);
      expect(deviation).toBeCloseTo(0.02, 3);
      expect(Math.max(...sample.map(Math.abs))).toBeLessThan(0.08);
    }
    for (const name of ['h.0.ln_1.weight', 'h.0.input_layernorm.weight', 'model.norm.weight']) {
      expect(new Set(values(shard, name))).toEqual(new Set([1]));
    }
    expect(new Set(values(shard, 'h.0.attn.bias'))).toEqual(new Set([0]));
    // The same numbers in another type differ by that type's rounding alone.
    expect(values(shard, 'embed.weight').slice(0, 64)).not.toEqual(
      values(shard, 'lm_head.weight').slice(0, 64),
    );
  });

  it('repeats no row of a matrix larger than the random pattern', async () => {
    const folder = join(root, 'rows');
    const tensors: DummyTensor[] = [{ name: 'w.weight', shape: [4096, 1024], dtype: 'BF16' }];
    await writeDummyCheckpoint({ config: CONFIG, tensors, folder, seed: 3 });
    const { bytes, dataStart } = await readShard(join(folder, 'model.safetensors'));
    const rows = new Set<string>();
    for (let at = dataStart; at < bytes.length; at += 2048) rows.add(bytes.toString('latin1', at, at + 2048));
    expect(rows.size).toBe(4096);
  });

  it('gives the same bytes for the same seed, and others for another', async () => {
    const of = async (name: string, seed: number) => {
      const folder = join(root, name);
      await writeDummyCheckpoint({ config: CONFIG, tensors: TENSORS, folder, seed });
      return digests(folder);
    };
    const first = await of('seed-a', 7);
    expect(await of('seed-b', 7)).toEqual(first);
    expect((await of('seed-c', 8))['model.safetensors']).not.toBe(first['model.safetensors']);
    // Guards the promise across versions and machines.
    expect(first['model.safetensors']).toBe(
      'f8727b9bdb645d2010ba548dcc2aafe65161eddba48ada1fb8ec2d27f2a71458',
    );
  });

  it('splits into shards with an index, and gives an oversized tensor its own', async () => {
    const folder = join(root, 'shards');
    const made = await writeDummyCheckpoint({
      config: CONFIG,
      tensors: TENSORS,
      folder,
      seed: 1,
      maxShardBytes: 50_000,
    });
    expect(made.shards).toEqual([1, 2, 3].map((index) => `model-0000${index}-of-00003.safetensors`));
    const index = JSON.parse(await readFile(join(folder, 'model.safetensors.index.json'), 'utf8'));
    expect(index.metadata).toEqual({ total_size: TOTAL_BYTES });
    expect(Object.keys(index.weight_map)).toEqual(TENSORS.map((tensor) => tensor.name));
    for (const name of made.shards) {
      const shard = await readShard(join(folder, name));
      for (const tensor of Object.keys(shard.header)) expect(index.weight_map[tensor]).toBe(name);
    }
  });

  it('reports progress up to the total', async () => {
    const seen: number[] = [];
    await writeDummyCheckpoint({
      config: CONFIG,
      tensors: TENSORS,
      folder: join(root, 'progress'),
      seed: 1,
      onProgress: (written, total) => {
        expect(total).toBe(TOTAL_BYTES);
        seen.push(written);
      },
    });
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.at(-1)).toBe(TOTAL_BYTES);
  });

  it('leaves nothing behind when interrupted', async () => {
    const folder = join(root, 'interrupted');
    const abort = new AbortController();
    const work = writeDummyCheckpoint({
      config: CONFIG,
      tensors: TENSORS,
      folder,
      seed: 1,
      signal: abort.signal,
      onProgress: () => abort.abort(),
    });
    await expect(work).rejects.toMatchObject({ code: 'INTERRUPTED' });
    expect((await readdir(root)).filter((name) => name.startsWith('interrupted'))).toEqual([]);
  });

  it('clears what a killed run left, and takes an empty folder', async () => {
    const folder = join(root, 'again');
    await mkdir(`${folder}.partial`);
    await writeFile(join(`${folder}.partial`, 'model-00001-of-00009.safetensors'), 'half');
    await mkdir(folder);
    await writeDummyCheckpoint({ config: CONFIG, tensors: TENSORS, folder, seed: 1 });
    expect((await readdir(folder)).sort()).toEqual(['config.json', 'model.safetensors']);
    expect(existsSync(`${folder}.partial`)).toBe(false);
  });

  it('refuses a folder with something in it, a file in its place, and a model larger than the drive', async () => {
    const folder = join(root, 'taken');
    await mkdir(folder);
    await writeFile(join(folder, 'notes.txt'), 'mine');
    const taken = writeDummyCheckpoint({ config: CONFIG, tensors: TENSORS, folder, seed: 1 });
    await expect(taken).rejects.toMatchObject({ code: 'WRITE_FAILED' });
    expect(await readFile(join(folder, 'notes.txt'), 'utf8')).toBe('mine');

    const below = join(folder, 'notes.txt', 'model');
    const blocked = writeDummyCheckpoint({ config: CONFIG, tensors: TENSORS, folder: below, seed: 1 });
    await expect(blocked).rejects.toMatchObject({ code: 'WRITE_FAILED' });

    const huge: DummyTensor[] = [{ name: 'w.weight', shape: [2 ** 25, 2 ** 25], dtype: 'F16' }];
    const tooLarge = writeDummyCheckpoint({
      config: CONFIG,
      tensors: huge,
      folder: join(root, 'huge'),
      seed: 1,
    });
    await expect(tooLarge).rejects.toMatchObject({ code: 'NO_SPACE' });
  });
});

describe('matrices of fewer bits', () => {
  const ROWS = 96;
  const INPUTS = 512;

  /** The values of one matrix that is stored in those types, by the definition of its format. */
  async function expanded(of: CodeKind): Promise<number[]> {
    const { codes, scales, groupInputs, value } = present(KINDS[of], of);
    const folder = join(root, `codes-${of}`);
    const tensors: DummyTensor[] = [
      { name: 'w.codes', ...codes, part: { is: 'codes', of } },
      { name: 'w.scales', ...scales, part: { is: 'scales', of } },
    ];
    await writeDummyCheckpoint({ config: CONFIG, tensors, folder, seed: 4 });
    const { header, bytes, dataStart } = await readShard(join(folder, 'model.safetensors'));
    const partOf = (name: string) => {
      const [from = 0, to = 0] = header[name]?.data_offsets ?? [];
      return bytes.subarray(dataStart + from, dataStart + to);
    };
    const [stored, scaleBytes] = [partOf('w.codes'), partOf('w.scales')];
    const groups = INPUTS / groupInputs;
    return Array.from({ length: ROWS * INPUTS }, (_, i) => {
      const group = Math.floor(i / INPUTS) * groups + Math.floor((i % INPUTS) / groupInputs);
      return value(stored, i) * scaleAt(scaleBytes, scales.dtype, group);
    });
  }

  it.each(['e4m3', 'int8', 'int4', 'e2m1'] as const)(
    '%s: codes times scales are small random values',
    async (of) => {
      const sample = await expanded(of);
      const { mean, deviation } = moments(sample);
      expect(Math.abs(mean)).toBeLessThan(0.001);
      expect(deviation).toBeGreaterThan(0.019);
      expect(deviation).toBeLessThan(0.024);
      // A scale is up to a quarter larger than what the largest value needs, and a power of two up to a third.
      expect(Math.max(...sample.map(Math.abs))).toBeLessThan(0.11);
      expect(new Set(sample).size).toBeGreaterThan(14);
    },
  );
});

type CodeKind = NonNullable<DummyTensor['part']>['of'];
type Stored = Pick<DummyTensor, 'shape' | 'dtype'>;

const nibble = (bytes: Uint8Array, i: number) => ((bytes[i >> 1] ?? 0) >> (4 * (i % 2))) & 15;
const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

function e4m3(code: number): number {
  const [exponent, fraction] = [(code >> 3) & 15, code & 7];
  expect(code & 0x7f).not.toBe(0x7f); // NaN
  const size = exponent === 0 ? fraction * 2 ** -9 : (8 + fraction) * 2 ** (exponent - 10);
  return code & 0x80 ? -size : size;
}

const KINDS: Readonly<
  Record<
    CodeKind,
    { codes: Stored; scales: Stored; groupInputs: number; value: (bytes: Uint8Array, i: number) => number }
  >
> = {
  e4m3: {
    codes: { shape: [96, 512], dtype: 'F8_E4M3' },
    scales: { shape: [96, 4], dtype: 'F32' },
    groupInputs: 128,
    value: (bytes, i) => e4m3(bytes[i] ?? 0),
  },
  int8: {
    codes: { shape: [96, 128], dtype: 'I32' },
    scales: { shape: [96, 8], dtype: 'BF16' },
    groupInputs: 64,
    value: (bytes, i) => (bytes[i] ?? 0) - 128,
  },
  int4: {
    codes: { shape: [96, 64], dtype: 'I32' },
    scales: { shape: [96, 8], dtype: 'BF16' },
    groupInputs: 64,
    value: (bytes, i) => nibble(bytes, i) - 8,
  },
  e2m1: {
    codes: { shape: [96, 256], dtype: 'U8' },
    scales: { shape: [96, 16], dtype: 'U8' },
    groupInputs: 32,
    value: (bytes, i) => (nibble(bytes, i) & 8 ? -1 : 1) * (E2M1[nibble(bytes, i) & 7] ?? 0),
  },
};

function scaleAt(bytes: Buffer, dtype: string, index: number): number {
  if (dtype === 'F32') return bytes.readFloatLE(index * 4);
  if (dtype === 'U8') return 2 ** (bytes.readUInt8(index) - 127);
  const wide = Buffer.alloc(4);
  wide.writeUInt16LE(bytes.readUInt16LE(index * 2), 2);
  return wide.readFloatLE();
}
