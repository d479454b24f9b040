// Writes a checkpoint of random weights in any model's shape: to try, plan and measure without a download.

import { existsSync } from 'node:fs';
import { mkdir, open, readdir, rename, rm, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { elementCount, formatBytes, MiB, OperatingError } from '../offload/index.js';
import { DirectFile, stagingBuffer } from './direct-file.js';

export type SafetensorsType = 'F32' | 'F16' | 'BF16';

export interface DummyTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: SafetensorsType;
}

export interface DummyCheckpointOptions {
  /** Written as config.json, unchanged. */
  readonly config: Readonly<Record<string, unknown>>;
  /** In the order in which they are to lie in the files. */
  readonly tensors: readonly DummyTensor[];
  /** Appears complete or not at all; must not exist, or be empty. */
  readonly folder: string;
  /** The same seed gives the same bytes on every machine. */
  readonly seed: number;
  /** A shard holds at least one tensor, however large. */
  readonly maxShardBytes?: number;
  readonly onProgress?: (writtenBytes: number, totalBytes: number) => void;
  readonly signal?: AbortSignal;
}

export interface DummyCheckpoint {
  readonly folder: string;
  readonly shards: readonly string[];
  /** Of all tensors; headers not counted. */
  readonly sizeBytes: number;
}

const TYPE_BYTES: Readonly<Record<SafetensorsType, number>> = { F32: 4, F16: 2, BF16: 2 };
const DEFAULT_SHARD_BYTES = 5e9;
const STAGING_BYTES = 8 * MiB;
const DEVIATION = 0.02;
/**
 * A prime: rows of a matrix then begin at different places of the pattern. With a power of two, the rows of most
 * matrices would repeat each other and the matrix would have almost no rank.
 */
const PATTERN_ELEMENTS = 2 ** 19 - 1;
const SLICE_BYTES = 2 * MiB;

/** Writes the checkpoint, and returns where it is. Peak memory is some 30 MiB whatever the model's size. */
export async function writeDummyCheckpoint(options: DummyCheckpointOptions): Promise<DummyCheckpoint> {
  const { config, tensors, onProgress, signal } = options;
  const folder = resolve(options.folder);
  const partial = `${folder}.partial`;
  const sizeBytes = tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  const shards = splitIntoShards(tensors, options.maxShardBytes ?? DEFAULT_SHARD_BYTES);
  await checkTarget(folder, sizeBytes);
  const patterns = new Patterns(options.seed);
  let writtenBytes = 0;
  const onBytes = (bytes: number) => {
    writtenBytes += bytes;
    onProgress?.(writtenBytes, sizeBytes);
    if (signal?.aborted) {
      throw new OperatingError('INTERRUPTED', `stopped after ${formatBytes(writtenBytes)} of dummy weights`);
    }
  };
  try {
    // What an earlier, killed run left.
    await rm(partial, { recursive: true, force: true });
    await mkdir(partial, { recursive: true });
    const staging = stagingBuffer(STAGING_BYTES);
    const names = shards.map((_, index) => shardName(index, shards.length));
    for (const [index, shard] of shards.entries()) {
      await writeShard(join(partial, shardName(index, shards.length)), shard, patterns, staging, onBytes);
    }
    if (shards.length > 1) {
      const weightMap = Object.fromEntries(
        shards.flatMap((shard, index) => shard.map((tensor) => [tensor.name, names[index]])),
      );
      const content = { metadata: { total_size: sizeBytes }, weight_map: weightMap };
      await writeJson(join(partial, 'model.safetensors.index.json'), content);
    }
    await writeJson(join(partial, 'config.json'), config);
    await rename(partial, folder);
    return { folder, shards: names, sizeBytes };
  } catch (error) {
    // Where even this fails, the first error says why.
    await rm(partial, { recursive: true, force: true }).catch(() => undefined);
    throw asWriteError(error, folder, sizeBytes);
  }
}

function tensorBytes(tensor: DummyTensor): number {
  return elementCount(tensor.shape) * TYPE_BYTES[tensor.dtype];
}

/** Fills shards in order; a tensor is never split. No tensors give one empty shard. */
function splitIntoShards(tensors: readonly DummyTensor[], maxBytes: number): DummyTensor[][] {
  const shards: DummyTensor[][] = [[]];
  let shardBytes = 0;
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor);
    if (shardBytes > 0 && shardBytes + bytes > maxBytes) {
      shards.push([]);
      shardBytes = 0;
    }
    shards.at(-1)?.push(tensor);
    shardBytes += bytes;
  }
  return shards;
}

/** The names that transformers gives. */
function shardName(index: number, count: number): string {
  if (count === 1) return 'model.safetensors';
  const digits = (value: number) => String(value).padStart(5, '0');
  return `model-${digits(index + 1)}-of-${digits(count)}.safetensors`;
}

async function checkTarget(folder: string, sizeBytes: number): Promise<void> {
  if (existsSync(folder)) {
    const entries = await readdir(folder).catch(() => ['']);
    if (entries.length > 0) {
      throw new OperatingError('WRITE_FAILED', `${folder} exists: remove it or choose another folder`);
    }
  }
  let existing = dirname(folder);
  while (!existsSync(existing)) existing = dirname(existing);
  const disk = await statfs(existing);
  const freeBytes = disk.bavail * disk.bsize;
  if (sizeBytes > freeBytes) {
    throw new OperatingError(
      'NO_SPACE',
      `the weights take ${formatBytes(sizeBytes)} and ${existing} has ${formatBytes(freeBytes)} free: ` +
        `make space, or choose a folder on another drive`,
    );
  }
}

async function writeShard(
  path: string,
  tensors: readonly DummyTensor[],
  patterns: Patterns,
  staging: Uint8Array,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const file = await DirectFile.create(path, staging);
  try {
    await file.append(safetensorsHeader(tensors));
    for (const tensor of tensors) {
      for (const slice of patterns.slices(tensor)) {
        await file.append(slice);
        onBytes(slice.length);
      }
    }
    await file.finish();
  } catch (error) {
    await file.abandon();
    throw error;
  }
}

/** Eight bytes with the length of the JSON text, then the text, padded so that the tensors begin at a multiple of 8. */
function safetensorsHeader(tensors: readonly DummyTensor[]): Uint8Array {
  const entries: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let offset = 0;
  for (const tensor of tensors) {
    const end = offset + tensorBytes(tensor);
    entries[tensor.name] = { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [offset, end] };
    offset = end;
  }
  const text = Buffer.from(JSON.stringify(entries));
  const header = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, ' ');
  header.writeBigUInt64LE(BigInt(header.length - 8));
  text.copy(header, 8);
  return header;
}

async function writeJson(path: string, content: unknown): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.writeFile(`${JSON.stringify(content, undefined, 2)}\n`);
    await file.datasync();
  } finally {
    await file.close();
  }
}

function asWriteError(error: unknown, folder: string, sizeBytes: number): unknown {
  if (!(error instanceof Error) || error instanceof OperatingError || !('code' in error)) return error;
  if (error.code === 'ENOSPC' || error.code === 'EDQUOT') {
    const message = `the drive filled up while ${formatBytes(sizeBytes)} of weights were written to ${folder}: make space`;
    return new OperatingError('NO_SPACE', message, { cause: error });
  }
  return new OperatingError('WRITE_FAILED', `cannot write ${folder}: ${error.message}`, { cause: error });
}

// ---------------------------------------------------------------------------------------------------------- values

type Fill = 'random' | 'one' | 'zero';

/** Norms pass their input on, biases add nothing, and all else is small: activations stay finite at any depth. */
function fillOf(name: string): Fill {
  const parts = name.split('.');
  const owner = parts.at(-2) ?? '';
  if (parts.at(-1) === 'bias') return 'zero';
  return /norm|^ln_/.test(owner) && parts.at(-1) === 'weight' ? 'one' : 'random';
}

/** Pattern bytes per element type and fill, made once and then sliced: drawing every weight would be CPU-bound. */
class Patterns {
  private readonly made = new Map<string, Uint8Array>();
  private readonly nextStart: () => number;

  constructor(private readonly seed: number) {
    this.nextStart = uniformSource(seed ^ 0x5bd1e995);
  }

  /** The tensor's bytes in order, in pieces of at most SLICE_BYTES. */
  *slices(tensor: DummyTensor): Generator<Uint8Array> {
    const fill = fillOf(tensor.name);
    const pattern = this.pattern(tensor.dtype, fill);
    const unit = TYPE_BYTES[tensor.dtype];
    const periodBytes = pattern.length - SLICE_BYTES;
    // Drawn for every tensor, so that a tensor's values do not depend on how others are filled.
    let at = Math.floor(this.nextStart() * (periodBytes / unit)) * unit;
    for (let left = tensorBytes(tensor); left > 0; ) {
      const count = Math.min(left, SLICE_BYTES);
      yield pattern.subarray(at, at + count);
      at = (at + count) % periodBytes;
      left -= count;
    }
  }

  /** One period, and as much of its beginning again as a slice needs to run over the end. */
  private pattern(type: SafetensorsType, fill: Fill): Uint8Array {
    const key = `${type} ${fill}`;
    const known = this.made.get(key);
    if (known) return known;
    const encode = ENCODERS[type];
    const draw = fill === 'random' ? normalSource(this.seed) : () => (fill === 'one' ? 1 : 0);
    const elements = fill === 'random' ? PATTERN_ELEMENTS : 1;
    const unit = TYPE_BYTES[type];
    const bytes = Buffer.alloc(elements * unit + SLICE_BYTES);
    for (let index = 0; index < elements; index++) {
      if (unit === 4) bytes.writeUInt32LE(encode(draw()), index * unit);
      else bytes.writeUInt16LE(encode(draw()), index * unit);
    }
    // Copies what is there again and again: doubling for a short period, one partial copy for a long one.
    for (let filled = elements * unit; filled < bytes.length; filled *= 2)
      bytes.copy(bytes, filled, 0, filled);
    this.made.set(key, bytes);
    return bytes;
  }
}

/** Uniform in [0, 1): a counter scrambled by multiplications and shifts, each a bijection of 32 bits. */
function uniformSource(seed: number): () => number {
  let counter = seed | 0;
  return () => {
    counter = (counter + 0x9e3779b9) | 0;
    let bits = counter;
    bits = Math.imul(bits ^ (bits >>> 16), 0x21f0aaad);
    bits = Math.imul(bits ^ (bits >>> 15), 0x735a2d97);
    return ((bits ^ (bits >>> 15)) >>> 0) / 2 ** 32;
  };
}

/**
 * Nearly normal, mean 0, deviation DEVIATION: a sum of four uniforms, whose variance is 1/3. Bounded, and exact
 * arithmetic only, so that all machines agree, which logarithms and cosines do not promise.
 */
function normalSource(seed: number): () => number {
  const uniform = uniformSource(seed);
  const scale = DEVIATION * Math.sqrt(3);
  return () => (uniform() + uniform() + uniform() + uniform() - 2) * scale;
}

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);

function f32Bits(value: number): number {
  float[0] = value;
  return floatBits[0] as number;
}

/** The upper half of an f32, rounded to nearest, ties to even. */
function bf16Bits(value: number): number {
  const bits = f32Bits(value);
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** For |value| < 65504. Rounds to nearest, ties to even. */
function f16Bits(value: number): number {
  const sign = value < 0 ? 0x8000 : 0;
  const size = Math.abs(value);
  // The exponent of an f16 stops at -14; below, the steps stay 2^-24.
  const exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const steps = roundToEven(size * 2 ** (10 - exponent));
  // Adding lets a mantissa that rounds up to 2048 carry into the exponent; 1024 steps are the implicit leading one.
  return sign + (exponent + 14) * 1024 + steps;
}

function roundToEven(value: number): number {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 === 1 ? rounded - 1 : rounded;
}

const ENCODERS: Readonly<Record<SafetensorsType, (value: number) => number>> = {
  F32: f32Bits,
  F16: f16Bits,
  BF16: bf16Bits,
};
