// What the tests of the read engine share: files of known bytes, readers that get closed, comparisons.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { native } from '../../offload/port/native.js';
import type { IoEngine, IoFailure, IoOptions, NativeIo, NativeMemory } from '../../offload/port/native-io.js';

export const ALIGNMENT = 4096;
const OPTIONS: IoOptions = {
  engine: 'auto',
  queueDepth: 8,
  chunkBytes: 16384,
  direct: true,
  fixedBuffers: true,
};
export const ENGINES: readonly IoEngine[] = ['io_uring', 'threads'];

/** Deterministic bytes that differ at every offset a misplaced block could come from. */
export function pattern(sizeBytes: number, seed: number): Buffer {
  const bytes = Buffer.alloc(sizeBytes);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let at = 0; at < sizeBytes; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}

export function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
    return state % below;
  };
}

export const roundDown = (value: number, to: number) => Math.floor(value / to) * to;
export const roundUp = (value: number, to: number) => Math.ceil(value / to) * to;

export interface TestFile {
  readonly path: string;
  readonly bytes: Buffer;
}

/** On the drive that holds the addon; and in memory. */
export let folder: string;
export let memoryFolder: string;
let fileCount = 0;
const opened: NativeIo[] = [];

export function makeFile(sizeBytes: number, inFolder = folder): TestFile {
  const path = join(inFolder, `data-${fileCount++}`);
  const bytes = pattern(sizeBytes, fileCount);
  writeFileSync(path, bytes);
  return { path, bytes };
}

export function makeIo(options: Partial<IoOptions> = {}): NativeIo {
  const io = native().createIo({ ...OPTIONS, ...options });
  opened.push(io);
  return io;
}

export function allocate(sizeBytes: number): { memory: NativeMemory; bytes: Uint8Array } {
  const memory = new (native().NativeMemory)(sizeBytes, false);
  return { memory, bytes: new Uint8Array(memory.view(0, sizeBytes)) };
}

export type ReadWords = [
  file: number,
  offset: number,
  size: number,
  required: number,
  memory: number,
  memoryOffset: number,
];
export const batch = (...reads: ReadWords[]) => new Float64Array(reads.flat());

export async function failure(promise: Promise<unknown>): Promise<IoFailure & Error> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(outcome).toBeInstanceOf(Error);
  return outcome as IoFailure & Error;
}

export function same(actual: Uint8Array, expected: Uint8Array): void {
  // A plain comparison: a diff of megabytes helps nobody.
  expect(Buffer.compare(actual, expected)).toBe(0);
}

/** Reads the whole file, as the aligned superset that a direct read needs, and compares it. */
export async function readWhole(io: NativeIo, { path, bytes }: TestFile, register = true): Promise<void> {
  const file = io.open(path);
  const sizeBytes = roundUp(Math.max(bytes.length, 1), ALIGNMENT);
  const block = allocate(sizeBytes);
  if (register) io.register(block.memory);
  const span = await io.read(batch([file.file, 0, sizeBytes, bytes.length, block.memory.id, 0]));
  same(block.bytes.subarray(0, bytes.length), bytes);
  expect(span.bytes).toBe(bytes.length);
  expect(span.endMs).toBeGreaterThanOrEqual(span.startMs);
  io.closeFile(file.file);
}

/** Temporary folders for the file's tests; readers that a test leaves open are closed behind it. */
export function useIo(): void {
  beforeAll(() => {
    // Beside the addon rather than in the system's temporary folder, which may be in memory.
    folder = mkdtempSync(fileURLToPath(new URL('../../native/build/io-test-', import.meta.url)));
    memoryFolder = mkdtempSync(join('/dev/shm', 'io-test-'));
  });

  afterEach(async () => {
    await Promise.all(opened.splice(0).map((io) => io.close()));
  });

  afterAll(() => {
    rmSync(folder, { recursive: true });
    rmSync(memoryFolder, { recursive: true });
  });
}
