// Does any damaged file crash, hang, or confuse a reader? A million seeded mutations, each target in its own process.
//
// node dist/bench/fuzz.js [--mutations 1000000] [--seed 1] [--target NAME] [--case N]

import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { printResult } from './common.js';
import { type FuzzFailure, type FuzzResult, runCases } from './fuzz-run.js';
import { FUZZ_TARGETS, type FuzzTarget } from './fuzz-targets.js';

const HEAP_MIB = 512;
/** Limit of the whole process, the heap of the tokenizer's core included. */
const MEMORY_LIMIT_KIB = 1.5 * 1024 * 1024;
/** A case takes milliseconds at most. */
const HANG_MS = 20_000;
const REPORT_EVERY = 500;
const MOST_FAILURES = 20;

const { values } = parseArgs({
  options: {
    mutations: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: '1' },
    target: { type: 'string' },
    case: { type: 'string' },
    child: { type: 'string' },
  },
});
const seed = Number(values.seed);

interface ChildEnd {
  /** The result of all cases, or of those before the last report if the process did not come so far. */
  readonly result: FuzzResult;
  /** Cases up to here are in the result. */
  readonly next: number;
  readonly memoryKib: number;
  /** Why the process ended before its last case; undefined when it did not. */
  readonly ending: string | undefined;
}

type TargetResult = Awaited<ReturnType<typeof runTarget>>;

interface Message {
  readonly next: number;
  readonly result: FuzzResult;
  readonly memoryKib: number;
}

function runChild(target: FuzzTarget, from: number, to: number, every: number): Promise<ChildEnd> {
  const range = JSON.stringify({ target: target.name, from, to, every });
  const child = fork(fileURLToPath(import.meta.url), ['--child', range, '--seed', String(seed)], {
    execArgv: [`--max-old-space-size=${HEAP_MIB}`],
    // A panic of the tokenizer's core prints there, a thousand times.
    stdio: ['ignore', 'inherit', 'ignore', 'ipc'],
  });
  return new Promise((resolve) => {
    let last: Message = { next: from, result: { counts: {}, failures: [] }, memoryKib: 0 };
    let hung = false;
    const hang = () => {
      hung = true;
      child.kill('SIGKILL');
    };
    let timer = setTimeout(hang, HANG_MS);
    child.on('message', (message: Message) => {
      clearTimeout(timer);
      timer = setTimeout(hang, HANG_MS);
      last = message;
    });
    child.on('exit', (code, signal) => {
      clearTimeout(timer);
      const ending = hung
        ? `no progress for ${HANG_MS / 1000} s`
        : `the process ended with ${signal ?? code}`;
      resolve({ ...last, ending: code === 0 && last.next === to ? undefined : ending });
    });
  });
}

/** One process as long as all goes well; after a crash or hang, the cases around it one by one, and then on. */
async function runTarget(target: FuzzTarget, cases: number) {
  const counts: Record<string, number> = {};
  const failures: FuzzFailure[] = [];
  const started = performance.now();
  let [memoryKib, next, oneByOneUntil] = [0, 0, 0];
  while (next < cases && failures.length < MOST_FAILURES) {
    const careful = next < oneByOneUntil;
    const end = await runChild(target, next, careful ? oneByOneUntil : cases, careful ? 1 : REPORT_EVERY);
    memoryKib = Math.max(memoryKib, end.memoryKib);
    for (const [code, count] of Object.entries(end.result.counts)) counts[code] = (counts[code] ?? 0) + count;
    failures.push(...end.result.failures);
    next = end.next;
    if (end.ending === undefined) continue;
    if (careful) failures.push({ target: target.name, seed, caseNumber: next++, problem: end.ending });
    else oneByOneUntil = Math.min(cases, next + REPORT_EVERY + 1);
  }
  if (memoryKib > MEMORY_LIMIT_KIB) {
    failures.push({ target: target.name, seed, caseNumber: -1, problem: `${memoryKib} KiB of memory` });
  }
  const seconds = (performance.now() - started) / 1e3;
  return { target: target.name, cases: next, counts, failures, memoryKib, seconds };
}

async function beChild(text: string): Promise<void> {
  const { target: name, from, to, every } = JSON.parse(text) as Record<string, number> & { target: string };
  const target = FUZZ_TARGETS.find((one) => one.name === name);
  if (!target || from === undefined || to === undefined || every === undefined) throw new Error(text);
  const report = (next: number, result: FuzzResult, sent?: () => void) => {
    const message: Message = { next, result, memoryKib: process.resourceUsage().maxRSS };
    process.send?.(message, undefined, undefined, sent);
  };
  const result = await runCases(target, {
    seed,
    from,
    to,
    onCase: (caseNumber, soFar) => {
      if ((caseNumber - from) % every === 0) report(caseNumber, soFar);
    },
  });
  report(to, result, () => process.exit(0));
}

function say({ target, cases, seconds, memoryKib, counts, failures }: TargetResult): void {
  const codes = Object.entries(counts).map(([code, count]) => `${code} ${count}`);
  process.stderr.write(
    `${target}: ${cases} in ${seconds.toFixed(0)} s, ${Math.round(memoryKib / 1024)} MiB; ` +
      `${codes.join(', ')}; ${failures.length} failures\n`,
  );
  for (const { seed, caseNumber, problem } of failures) {
    process.stderr.write(`  FAILURE --seed ${seed} --target '${target}' --case ${caseNumber}: ${problem}\n`);
  }
}

async function main(): Promise<void> {
  const targets = FUZZ_TARGETS.filter(({ name }) => values.target === undefined || name === values.target);
  if (values.case !== undefined) {
    for (const target of targets) {
      const from = Number(values.case);
      process.stdout.write(
        `${JSON.stringify(await runCases(target, { seed, from, to: from + 1 }), null, 2)}\n`,
      );
    }
    return;
  }
  const results: TargetResult[] = [];
  const queue = [...targets];
  const worker = async () => {
    for (let target = queue.shift(); target; target = queue.shift()) {
      const result = await runTarget(target, Math.round(Number(values.mutations) * target.share));
      results.push(result);
      say(result);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  const failures = results.reduce((sum, { failures }) => sum + failures.length, 0);
  const cases = results.reduce((sum, one) => sum + one.cases, 0);
  printResult('fuzzing', `${cases} mutations, ${failures} failures`, { seed, results });
  process.exitCode = failures > 0 ? 1 : 0;
}

await (values.child === undefined ? main() : beChild(values.child));
