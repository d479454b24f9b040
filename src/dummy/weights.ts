// Writes a checkpoint of random weights in any model's shape: to try, plan and measure without a download.

import { existsSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { formatBytes, MiB, OperatingError, present } from '../../offload/index.js';
import { safetensorsHeader } from '../checkpoint/safetensors-header.js';
import { DirectFile, stagingBuffer } from '../files/direct-file.js';
import { ifThere } from '../files/if-there.js';
import { makeFolder } from '../files/make-folder.js';
import { readWhole } from '../files/read-whole.js';
import { type LockOptions, takeLock } from '../staging/lock.js';
import { type DummyTensor, Patterns, type SafetensorsType, tensorBytes } from './values.js';

export type { DummyTensor, SafetensorsType };

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
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  readonly signal?: AbortSignal;
  /** Called as `takeLock` calls it, with who is waited for. */
  readonly onWait?: (holder: string) => void;
}

export interface DummyCheckpoint {
  readonly folder: string;
  readonly shards: readonly string[];
  /** Bytes of all tensors, without headers. */
  readonly sizeBytes: number;
}

const DEFAULT_SHARD_BYTES = 5e9;
const STAGING_BYTES = 8 * MiB;
const HEADER_ALIGNMENT_BYTES = 8;

/** Writes the checkpoint, and returns where it is. Peak memory is some 30 MiB whatever the model's size. */
export async function writeDummyCheckpoint(options: DummyCheckpointOptions): Promise<DummyCheckpoint> {
  await checkRoom(options);
  return withDummyLock(options.folder, options, () => writeLocked(options));
}

/** One writer of the folder at a time; the lock lies beside it, since the folder appears in one step. */
export async function withDummyLock<T>(
  folder: string,
  options: LockOptions,
  work: () => Promise<T>,
): Promise<T> {
  const path = resolve(folder);
  await makeFolder(dirname(path));
  const unlock = await takeLock(`${path}.lock`, options);
  try {
    return await work();
  } finally {
    await unlock();
  }
}

/** The same as `writeDummyCheckpoint`, for whoever has the lock. */
export async function writeLocked(options: DummyCheckpointOptions): Promise<DummyCheckpoint> {
  const { config, onProgress, signal } = options;
  const folder = resolve(options.folder);
  const partial = `${folder}.partial`;
  const { shards, sizeBytes, names, index } = partsOf(options);
  await checkAbsent(folder);
  await checkRoom(options);
  const patterns = new Patterns(options.seed);
  const onBytes = countBytes(sizeBytes, onProgress, signal);
  try {
    // An earlier run that was killed has left it.
    await rm(partial, { recursive: true, force: true });
    await mkdir(partial);
    const staging = stagingBuffer(STAGING_BYTES);
    for (const [i, shard] of shards.entries()) {
      await writeShard(join(partial, present(names[i], 'name')), shard, { patterns, staging, onBytes });
    }
    if (index) await writeJson(join(partial, INDEX_NAME), index);
    await writeJson(join(partial, 'config.json'), config);
    await rename(partial, folder);
    return { folder, shards: names, sizeBytes };
  } catch (error) {
    // Where even this fails, the first error says why.
    await rm(partial, { recursive: true, force: true }).catch(() => undefined);
    throw asWriteError(error, folder, sizeBytes);
  }
}

/**
 * The name of the first file in the folder that is not as `writeDummyCheckpoint` would write it, absent or other;
 * undefined when there is none. Reads all of it. Other files in the folder are not looked at.
 */
export async function firstDifference(options: DummyCheckpointOptions): Promise<string | undefined> {
  const { shards, sizeBytes, names, index } = partsOf(options);
  const patterns = new Patterns(options.seed);
  const onBytes = countBytes(sizeBytes, options.onProgress, options.signal);
  const texts = [{ name: 'config.json', content: options.config as unknown }];
  if (index) texts.push({ name: INDEX_NAME, content: index });
  for (const { name, content } of texts) {
    const path = join(options.folder, name);
    const text = await ifThere(path, readFile(path, 'utf8'));
    if (text !== jsonText(content)) return name;
  }
  for (const [i, shard] of shards.entries()) {
    const name = present(names[i], 'name');
    if (!(await hasContent(join(options.folder, name), shard, patterns, onBytes))) return name;
  }
  return undefined;
}

const INDEX_NAME = 'model.safetensors.index.json';

/** The names of its files. */
export function dummyFileNames(options: DummyParts): readonly string[] {
  const { names, index } = partsOf(options);
  return [...names, ...(index ? [INDEX_NAME] : []), 'config.json'];
}

type DummyParts = Pick<DummyCheckpointOptions, 'tensors' | 'maxShardBytes'>;

function partsOf({ tensors, maxShardBytes = DEFAULT_SHARD_BYTES }: DummyParts) {
  const sizeBytes = tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  const shards = splitIntoShards(tensors, maxShardBytes);
  const names = shards.map((_, i) => shardName(i, shards.length));
  const weightMap = () =>
    Object.fromEntries(shards.flatMap((shard, i) => shard.map((tensor) => [tensor.name, names[i]])));
  const index =
    shards.length > 1 ? { metadata: { total_size: sizeBytes }, weight_map: weightMap() } : undefined;
  return { sizeBytes, shards, names, index };
}

function countBytes(
  sizeBytes: number,
  onProgress: DummyCheckpointOptions['onProgress'],
  signal: AbortSignal | undefined,
): (bytes: number) => void {
  let doneBytes = 0;
  return (bytes) => {
    doneBytes += bytes;
    onProgress?.(doneBytes, sizeBytes);
    if (signal?.aborted) {
      throw new OperatingError('INTERRUPTED', `stopped after ${formatBytes(doneBytes)} of dummy weights`);
    }
  };
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

async function checkAbsent(folder: string): Promise<void> {
  const found = await ifThere(folder, stat(folder));
  if (!found) return;
  if (!found.isDirectory() || (await readdir(folder)).length > 0) {
    throw new OperatingError('WRITE_FAILED', `${folder} exists: remove it or choose another folder`);
  }
}

/** Throws NO_SPACE; makes nothing. */
export async function checkRoom(options: DummyParts & { readonly folder: string }): Promise<void> {
  const { sizeBytes } = partsOf(options);
  let existing = dirname(resolve(options.folder));
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

interface ShardWork {
  readonly patterns: Patterns;
  readonly staging: Uint8Array;
  readonly onBytes: (bytes: number) => void;
}

async function writeShard(
  path: string,
  tensors: readonly DummyTensor[],
  { patterns, staging, onBytes }: ShardWork,
): Promise<void> {
  const file = await DirectFile.create(path, staging);
  try {
    await file.append(headerOf(tensors));
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

function headerOf(tensors: readonly DummyTensor[]): Uint8Array {
  return safetensorsHeader(
    tensors.map((tensor) => ({ ...tensor, sizeBytes: tensorBytes(tensor) })),
    HEADER_ALIGNMENT_BYTES,
  );
}

async function hasContent(
  path: string,
  tensors: readonly DummyTensor[],
  patterns: Patterns,
  onBytes: (bytes: number) => void,
): Promise<boolean> {
  // What there is of the patterns is drawn in order, whether or not it is compared.
  const pieces = function* () {
    yield headerOf(tensors);
    for (const tensor of tensors) yield* patterns.slices(tensor);
  };
  const file = await ifThere(path, open(path, 'r'));
  if (!file) return false;
  try {
    let offset = 0;
    let memory = Buffer.alloc(0);
    for (const piece of pieces()) {
      if (memory.length < piece.length) memory = Buffer.alloc(piece.length);
      const there = memory.subarray(0, piece.length);
      if ((await readWhole(file, there, offset)) < there.length) return false;
      if (!there.equals(piece)) return false;
      if (offset > 0) onBytes(piece.length);
      offset += piece.length;
    }
    return (await file.stat()).size === offset;
  } finally {
    await file.close();
  }
}

function jsonText(content: unknown): string {
  return `${JSON.stringify(content, undefined, 2)}\n`;
}

async function writeJson(path: string, content: unknown): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.writeFile(jsonText(content));
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
