// One run with one fault, and what is wrong with how it ended: nothing, or sentences.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ERROR_CODES } from '../../offload/errors.js';
import type { Scenario } from './scenarios.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url)).replace(/dist\/$/, '');
const [MAIN, PRELOAD] = ['dist/src/main.js', 'dist/bench/faults/preload.js'].map((path) => join(ROOT, path));
/** Long enough for `doctor`, which writes half a gigabyte and measures for seconds. */
const PATIENCE_MS = 120_000;

export interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Contents of the results, a line each, without what differs from run to run. */
  readonly results: readonly string[];
  /** What is left in its folders. */
  readonly files: readonly string[];
  readonly counts: Readonly<Record<string, number>>;
  /** The fault was met. */
  readonly struck: boolean;
  /** How the run ended that went on with what this one left. */
  readonly again: Ended | undefined;
}

/** @param fault such as `fs.rename:1`; undefined: only counts */
export async function run(scenario: Scenario, fault: string | undefined): Promise<Ended> {
  const folder = mkdtempSync(join(tmpdir(), 'zi-faults-'));
  const others: string[] = [];
  try {
    const words = scenario.words(folder);
    const also = join(folder, 'also');
    if (existsSync(also)) others.push(readFileSync(also, 'utf8'));
    const ended = await start(words, folder, others, fault);
    if (!scenario.again || ended.status === 0 || fault === undefined) return ended;
    const again = await start(scenario.again(folder), folder, others, undefined);
    return { ...ended, again };
  } finally {
    for (const one of [folder, ...others]) rmSync(one, { recursive: true, force: true });
  }
}

function start(
  words: readonly string[],
  folder: string,
  others: readonly string[],
  fault: string | undefined,
): Promise<Ended> {
  const countsPath = join(mkdtempSync(join(tmpdir(), 'zi-counts-')), 'counts');
  const child = spawn(process.execPath, ['--import', PRELOAD ?? '', MAIN ?? '', ...words], {
    env: {
      ...process.env,
      ZI_FAULT_COUNTS: countsPath,
      // One thread of Node's file pool, so that what comes first is the same from run to run.
      UV_THREADPOOL_SIZE: '1',
      ...(fault === undefined ? {} : { ZI_FAULT: fault }),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: PATIENCE_MS,
    killSignal: 'SIGKILL',
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status, signal) => {
      const told = existsSync(countsPath)
        ? (JSON.parse(readFileSync(countsPath, 'utf8')) as Pick<Ended, 'counts' | 'struck'>)
        : { counts: {}, struck: false };
      rmSync(join(countsPath, '..'), { recursive: true, force: true });
      const results = resultsOf(join(folder, 'out.jsonl'));
      const files = [folder, ...others].flatMap(filesBelow);
      resolve({ status, signal, stdout, stderr, results, files, ...told, again: undefined });
    });
  });
}

/** Lines that are whole, in order of their prompts. */
function resultsOf(path: string): string[] {
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1);
  return lines.sort();
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => !statSync(join(folder, path), { throwIfNoEntry: false })?.isDirectory())
    .map((path) => relative(folder, join(folder, path)));
}

/** What is wrong with it, as sentences; none where it is as it should be. */
export function faultsOf(ended: Ended, reference: Ended, scenario: Scenario): string[] {
  const { status, signal, stdout, stderr, results } = ended;
  const wrong: string[] = [];
  if (signal !== null || status === null)
    wrong.push(`ended by ${signal}: a crash, or no end within two minutes`);
  const sentences = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('{'));
  if (status === 0) {
    if (sentences.length > 0) wrong.push(`status 0, and on stderr: ${sentences.join(' | ')}`);
    if (scenario.repeats && stdout !== reference.stdout) wrong.push(`other text: ${JSON.stringify(stdout)}`);
    if (results.join('\n') !== reference.results.join('\n')) wrong.push('other results, and status 0');
  } else if (signal === null) {
    wrong.push(...badRefusal(status, sentences));
    // Whatever has begun, its line is ended.
    if (scenario.repeats && !reference.stdout.startsWith(stdout.replace(/\n$/, ''))) {
      wrong.push(`wrong text before the error: ${JSON.stringify(stdout)}`);
    }
    const known = new Set(reference.results);
    if (results.some((line) => !known.has(line))) wrong.push('wrong results before the error');
  }
  const left = ended.files.filter(
    (path) => !scenario.leaves.some((one) => one.test(path)) && !reference.files.includes(path),
  );
  if (left.length > 0) wrong.push(`left behind: ${left.join(', ')}`);
  if (ended.again && ended.again.status !== 0) wrong.push(`cannot be gone on with: ${ended.again.stderr}`);
  if (ended.again && ended.again.results.join('\n') !== reference.results.join('\n')) {
    wrong.push('gone on with, the results are others');
  }
  return wrong;
}

function badRefusal(status: number | null, sentences: readonly string[]): string[] {
  const [only = '', ...more] = sentences;
  const code = /^zero-inference: ([A-Z_]+): ./.exec(only)?.[1];
  if (code === undefined || more.length > 0) {
    return [`not one sentence with a code: ${JSON.stringify(sentences.join('\n').slice(0, 500))}`];
  }
  if (!Object.hasOwn(ERROR_CODES, code)) return [`a fault of this program: ${only}`];
  const expected = ERROR_CODES[code as keyof typeof ERROR_CODES].exitStatus;
  return expected === status ? [] : [`status ${status} with ${code}`];
}
