// What tests of staging share: weight files to copy, and what is expected of their copies.

import { readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { expect } from 'vitest';
import { OperatingError } from '../../offload/errors.js';
import { CHUNK_BYTES } from '../../src/staging/copy.js';
import { overwrite } from './overwrite.js';
import { randomFrom } from './random.js';
import { writeSafetensors } from './safetensors.js';
import { tempFolder } from './temp-folder.js';

export interface Source {
  readonly folder: string;
  readonly files: readonly string[];
}

/** Weight files of the given sizes (in chunks) with random content. */
export function sourceOf(chunks: readonly number[], seed = 1): Source {
  const folder = tempFolder();
  const random = randomFrom(seed);
  const files = chunks.map((count, i) => {
    const path = join(folder, `model-${i}.safetensors`);
    const data = Buffer.alloc(Math.floor(count * CHUNK_BYTES));
    for (let at = 0; at + 4 <= data.length; at += 512) data.writeInt32LE(random() * 2 ** 31, at);
    writeSafetensors(path, [{ name: `t${i}`, dtype: 'U8', shape: [data.length], data }]);
    return path;
  });
  return { folder, files };
}

export function expectCopyOf(source: Source, files: readonly string[]): void {
  expect(files.map((file) => basename(file))).toEqual(source.files.map((file) => basename(file)));
  for (const [i, file] of files.entries()) {
    expect(readFileSync(file).equals(readFileSync(source.files[i] ?? ''))).toBe(true);
  }
}

export async function failureOf(work: Promise<unknown>): Promise<OperatingError> {
  const error: unknown = await work.catch((thrown: unknown) => thrown);
  if (!(error instanceof OperatingError))
    throw new Error(`expected an operating error, got ${String(error)}`);
  return error;
}

/** Where nothing is looked at but the whole. */
export function overwriteEnd(path: string): void {
  overwrite(path, statSync(path).size - 100);
}

/** Counts bytes by phase. */
export function meter() {
  const bytes = { compare: 0, copy: 0 };
  const calls: number[] = [];
  return {
    bytes,
    calls,
    onProgress: (done: number, total: number, phase: 'compare' | 'copy') => {
      expect(done).toBeLessThanOrEqual(total);
      bytes[phase] = done;
      calls.push(done);
    },
  };
}
