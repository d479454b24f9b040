// Runs the command line as a process of its own and collects what it said.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What runs note of places is not the user's. */
const XDG_CACHE_HOME = join(tmpdir(), 'zero-inference-tests-cache');
const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));

export interface CliResult {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  /** Messages of the log records. */
  readonly logs: readonly string[];
  /** Lines of stderr that are no log records. */
  readonly errors: readonly string[];
}

export interface CliOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Paths of files that stand for the streams; outputs are appended to. */
  readonly stdin?: string;
  readonly stdout?: string;
  readonly stderr?: string;
  /** Called with the process and what it has written to stdout so far. */
  readonly onStdout?: (child: ChildProcess, text: string) => void;
}

export function runCli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const paths = [options.stdin, options.stdout, options.stderr];
  const files = paths.map((path, i) =>
    path === undefined ? undefined : openSync(path, i === 0 ? 'r' : 'a'),
  );
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, XDG_CACHE_HOME, ...options.env },
    stdio: [files[0] ?? 'ignore', files[1] ?? 'pipe', files[2] ?? 'pipe'],
  });
  for (const file of files) if (file !== undefined) closeSync(file);
  let [stdout, stderr] = ['', ''];
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    options.onStdout?.(child, stdout);
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status, signal) => {
      const lines = stderr.split('\n').filter((line) => line !== '');
      const logs = lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line).msg as string);
      resolve({ status, signal, stdout, logs, errors: lines.filter((line) => !line.startsWith('{')) });
    });
  });
}
