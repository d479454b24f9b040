// A folder for one test (or, called outside a test, one file of tests) that disappears afterwards.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, onTestFinished } from 'vitest';

/** An `afterAll` that a running hook asks for is never called: this one is asked for when the file is read. */
const foldersOfFile: string[] = [];
try {
  afterAll(() => foldersOfFile.forEach(remove));
} catch {
  // Benchmarks import files that import this one, and have no end that could be asked for.
}

function remove(folder: string): void {
  rmSync(folder, { recursive: true, force: true });
}

export function tempFolder(parent: string = tmpdir()): string {
  const folder = mkdtempSync(join(parent, 'zero-inference-test-'));
  try {
    onTestFinished(() => remove(folder));
  } catch {
    // Only possible inside a test.
    foldersOfFile.push(folder);
  }
  return folder;
}

/** For tests that run side by side, where no test can say when another ends: new folders that live as long as the file. */
export function sharedFolder(): () => string {
  const parent = tempFolder();
  return () => mkdtempSync(join(parent, 'test-'));
}
