// Do compute-sanitizer's memcheck and racecheck find anything in the kernels? All GPU tests under both, within a time.
//
// node dist/bench/gpu/sanitize.js [--seconds 540] [--jobs 14] [--limit 500] [--tools memcheck,racecheck]
//   [--files cuda-attention,…] [--sanitizer compute-sanitizer] [--logs out/sanitize]
//
// A checked kernel is many times slower, so the files are cut by the types in their tests' names and run beside each
// other, with ZI_TEST_SCALE=small: the same cases, but attention with one placing of operands instead of two. Memcheck
// watches all kernels, those of the library for products as well; racecheck, which traces shared memory, only ours, and
// without the products of 16-bit inputs that the library computes, whose kernels crash it. A line per part; status 1
// when a part found errors, did not end in time, or a test ran in none.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { printResult } from '../common.js';
import {
  type Findings,
  findingsOf,
  neverRan,
  PARTS,
  type TestNames,
  type Tool,
  testNamesOf,
} from './sanitize-report.js';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '540' },
    jobs: { type: 'string', default: '14' },
    limit: { type: 'string', default: '500' },
    tools: { type: 'string', default: 'racecheck,memcheck' },
    files: { type: 'string' },
    sanitizer: { type: 'string', default: 'compute-sanitizer' },
    logs: { type: 'string', default: 'out/sanitize' },
  },
});

/** Started first: they take longest. */
const LONGEST = ['cuda-attention', 'cuda-cache', 'cuda-half', 'cuda-kernels'];
const TOOL_OPTIONS: Readonly<Record<Tool, readonly string[]>> = {
  memcheck: [],
  // Mangled names of our kernels begin with the namespace.
  racecheck: ['--racecheck-report', 'analysis', '--kernel-name', 'kernel_substring=2zi4cuda'],
};
/** Racecheck is crashed by what cuBLASLt launches for 16-bit inputs; and one GPU is enough for all kernels. */
const MAY_MISS: Readonly<Record<Tool, RegExp>> = { memcheck: /two GPUs/, racecheck: /two GPUs|\(library\)/ };
const KERNELS: Readonly<Record<Tool, string>> = { memcheck: 'all', racecheck: 'own' };
/** Tests that ask the driver for what it has to refuse: a refusal is no finding there. */
const ASKS_FOR_REFUSALS = ['cuda-memory'];
const FIRST_PORT = 49152;
const PORTS_EACH = 32;

interface Part {
  readonly tool: Tool;
  readonly file: string;
  readonly part: (typeof PARTS)[number];
  /** Sanitizers that run at once listen on ports of their own. */
  readonly port: number;
}

interface Outcome extends Part {
  readonly seconds: number;
  readonly findings: Findings | undefined;
  readonly tests: TestNames | undefined;
  /** Why the part counts as failed; undefined: it does not. */
  readonly problem: string | undefined;
}

const files = (values.files?.split(',') ?? filesOfTests()).sort((a, b) => rank(a) - rank(b));
const tools = values.tools.split(',') as Tool[];
const deadlineMs = performance.now() + Number(values.seconds) * 1000;
rmSync(values.logs, { recursive: true, force: true });
mkdirSync(values.logs, { recursive: true });

const waiting = files
  .flatMap((file) => tools.flatMap((tool) => PARTS.map((part) => ({ tool, file, part }))))
  .map((part, index): Part => ({ ...part, port: FIRST_PORT + (index % 400) * PORTS_EACH }));
const startMs = performance.now();
const outcomes: Outcome[] = [];
const running = new Set<ChildProcess>();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    for (const child of running) endGroup(child);
    process.exit(130);
  });
}
await Promise.all(
  Array.from({ length: Number(values.jobs) }, async () => {
    for (let part = waiting.shift(); part !== undefined; part = waiting.shift()) {
      const outcome = await run(part);
      outcomes.push(outcome);
      process.stderr.write(`${lineOf(outcome)}\n`);
      if (outcome.problem !== undefined) process.stderr.write(`${saidBy(outcome)}\n`);
    }
  }),
);
report();

function filesOfTests(): string[] {
  return readdirSync('test/native')
    .filter((name) => name.startsWith('cuda') && name.endsWith('.test.ts'))
    .map((name) => basename(name, '.test.ts'));
}

function rank(file: string): number {
  const index = LONGEST.indexOf(file);
  return index === -1 ? LONGEST.length : index;
}

async function run(part: Part): Promise<Outcome> {
  const { tool, file, part: tests, port } = part;
  const limitMs = Math.min(Number(values.limit) * 1000, deadlineMs - performance.now());
  if (limitMs < 1000)
    return { ...part, seconds: 0, findings: undefined, tests: undefined, problem: 'no time left' };
  const log = join(values.logs, `${tool}-${file}-${tests.name}`);
  const began = performance.now();
  const status = await ended(
    spawn(
      values.sanitizer,
      [
        ...['--tool', tool, ...TOOL_OPTIONS[tool]],
        ...(tool === 'memcheck' && ASKS_FOR_REFUSALS.includes(file) ? ['--report-api-errors', 'no'] : []),
        // Vitest's workers are child processes, which it ends by a signal; it uses no GPU itself.
        ...['--check-exit-code', 'no', '--require-cuda-init', 'no'],
        ...['--target-processes', 'all', '--launch-timeout', '0', '--port', String(port)],
        ...['--error-exitcode', '9', '--log-file', `${log}.log`],
        ...[process.execPath, 'node_modules/vitest/vitest.mjs', 'run', `test/native/${file}.test.ts`],
        ...['-t', tests.pattern, '--testTimeout', '600000', '--hookTimeout', '600000'],
        ...['--reporter=json', `--outputFile=${log}.json`],
      ],
      {
        env: { ...process.env, ZI_TEST_SCALE: 'small', ZI_TEST_KERNELS: KERNELS[tool] },
        stdio: 'ignore',
        detached: true,
      },
    ),
    limitMs,
  );
  const seconds = (performance.now() - began) / 1000;
  const findings = findingsOf(tool, textOf(`${log}.log`));
  const json = textOf(`${log}.json`);
  const names = json === '' ? undefined : testNamesOf(json);
  return { ...part, seconds, findings, tests: names, problem: problemOf(status, findings, names) };
}

/** Exit status, or how it ended otherwise. */
function ended(child: ChildProcess, limitMs: number): Promise<number | string> {
  running.add(child);
  return new Promise((resolve) => {
    const settle = (result: number | string) => {
      clearTimeout(timer);
      running.delete(child);
      resolve(result);
    };
    const timer = setTimeout(() => {
      endGroup(child);
      settle('did not end in time');
    }, limitMs);
    child.on('error', (error) => settle(`could not be started: ${error.message}`));
    child.on('exit', (status, signal) => settle(status ?? `ended by ${signal}`));
  });
}

/** The sanitizer leads a group of its own, with vitest and its workers in it. */
function endGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It ended by itself meanwhile.
  }
}

function problemOf(
  status: number | string,
  findings: Findings | undefined,
  tests: TestNames | undefined,
): string | undefined {
  if (typeof status === 'string') return status;
  if (findings && findings.errors > 0) return 'the sanitizer found errors';
  if (!tests) return `no tests were reported (status ${status})`;
  if (tests.failed.length > 0) return `failed: ${tests.failed.join('; ')}`;
  if (tests.passed.length > 0 && !findings) return `the sanitizer gave no sum (status ${status})`;
  // A part without tests uses no GPU, which the sanitizer may take for an error.
  return status === 0 || tests.passed.length === 0 ? undefined : `status ${status}`;
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** What the tool said first. */
function saidBy({ tool, file, part }: Outcome): string {
  const lines = textOf(join(values.logs, `${tool}-${file}-${part.name}.log`)).split('\n');
  return lines.slice(0, 16).join('\n');
}

function lineOf({ tool, file, part, seconds, findings, tests, problem }: Outcome): string {
  const found = findings ? `${findings.errors} errors, ${findings.warnings} warnings` : 'no sum';
  const failed = problem === undefined ? '' : ` FAILED: ${problem}`;
  return `${tool} ${file} ${part.name}: ${tests?.passed.length ?? 0} tests, ${found}, ${seconds.toFixed(0)} s${failed}`;
}

function report(): void {
  const missing = tools.flatMap((tool) =>
    files.flatMap((file) => {
      const parts = outcomes.filter((outcome) => outcome.tool === tool && outcome.file === file);
      return neverRan(
        parts.map(({ tests }) => tests),
        MAY_MISS[tool],
      ).map((name) => `${tool} ${file}: ${name}`);
    }),
  );
  for (const name of missing) process.stderr.write(`never ran under ${name}\n`);
  const failed = outcomes.filter(({ problem }) => problem !== undefined);
  const sum = (of: (outcome: Outcome) => number) =>
    outcomes.reduce((total, outcome) => total + of(outcome), 0);
  const errors = sum(({ findings }) => findings?.errors ?? 0);
  const warnings = sum(({ findings }) => findings?.warnings ?? 0);
  const tests = sum(({ tests: names }) => names?.passed.length ?? 0);
  const seconds = (performance.now() - startMs) / 1000;
  const clean = failed.length === 0 && missing.length === 0;
  process.exitCode = clean ? 0 : 1;
  printResult(
    'sanitizers',
    `${clean ? 'clean' : 'FAILED'}: ${tools.join(' and ')} on ${files.length} files, ${tests} tests run, ${errors} errors, ` +
      `${warnings} warnings, ${failed.length} of ${outcomes.length} parts failed, ${missing.length} tests never ran, ` +
      `${seconds.toFixed(0)} s`,
    {
      seconds,
      tests,
      errors,
      warnings,
      missing,
      parts: outcomes.map((outcome) => ({
        ...{ tool: outcome.tool, file: outcome.file, part: outcome.part.name, seconds: outcome.seconds },
        ...{ tests: outcome.tests?.passed.length ?? 0, ...outcome.findings },
        ...(outcome.problem === undefined ? {} : { problem: outcome.problem }),
      })),
    },
  );
}
