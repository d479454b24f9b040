// How long a command takes to its first token: what benchmarks of starting have in common.

import { spawn } from 'node:child_process';
import { once } from 'node:events';

/** Seconds from the start of a new process until it prints something. Rejects where it does not end well. @param words the command line */
export async function secondsToFirstToken(words: readonly string[]): Promise<number> {
  const startMs = performance.now();
  const child = spawn(process.execPath, ['dist/src/main.js', ...words], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'close');
  await Promise.race([once(child.stdout, 'data'), ended]);
  const seconds = (performance.now() - startMs) / 1e3;
  child.stdout.resume();
  const [status] = (await ended) as [number | null];
  if (status !== 0) throw new Error(`the run for the first token ended with status ${status}`);
  return seconds;
}
