// Runs a range of a target's cases in this process. A case is its seed and number: it can be repeated alone.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OperatingError } from '../offload/index.js';
import { type FuzzTarget, problemOf } from './fuzz-targets.js';
import { randomFrom } from './random.js';

export interface FuzzFailure {
  readonly target: string;
  readonly seed: number;
  readonly caseNumber: number;
  readonly problem: string;
}

export interface FuzzResult {
  /** How often each code, or `read` for files that were accepted. */
  readonly counts: Readonly<Record<string, number>>;
  readonly failures: readonly FuzzFailure[];
}

export interface FuzzRange {
  readonly seed: number;
  readonly from: number;
  readonly to: number;
  /** Called before every case, with what there is so far. */
  readonly onCase?: (caseNumber: number, soFar: FuzzResult) => void;
}

const MOST_FAILURES = 20;

export async function runCases(target: FuzzTarget, range: FuzzRange): Promise<FuzzResult> {
  const folder = mkdtempSync(join(tmpdir(), 'zero-inference-fuzz-'));
  try {
    return await runCasesIn(folder, target, range);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function runCasesIn(folder: string, target: FuzzTarget, range: FuzzRange): Promise<FuzzResult> {
  const counts: Record<string, number> = {};
  const failures: FuzzFailure[] = [];
  const run = await target.prepare(folder);
  for (let caseNumber = range.from; caseNumber < range.to && failures.length < MOST_FAILURES; caseNumber++) {
    range.onCase?.(caseNumber, { counts, failures });
    let outcome = 'read';
    try {
      await run(randomFrom(Math.imul(range.seed, 0x9e3779b1) ^ Math.imul(caseNumber + 1, 0x85ebca6b)));
    } catch (error) {
      outcome = error instanceof OperatingError ? error.code : 'failure';
      const problem = problemOf(error, target);
      if (problem !== undefined) {
        failures.push({ target: target.name, seed: range.seed, caseNumber, problem: problem.slice(0, 2000) });
      }
    }
    counts[outcome] = (counts[outcome] ?? 0) + 1;
  }
  return { counts, failures };
}
