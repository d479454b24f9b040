// What a part of the GPU tests said under compute-sanitizer: errors that it found, and which tests really ran.

import { present } from '../../offload/index.js';

export type Tool = 'memcheck' | 'racecheck';

export interface Findings {
  readonly errors: number;
  /** Hazards that racecheck thinks harmless. */
  readonly warnings: number;
}

/** The sums at the end of the tool's output; undefined when it did not come so far. */
export function findingsOf(tool: Tool, output: string): Findings | undefined {
  const pattern =
    tool === 'memcheck'
      ? /ERROR SUMMARY: (\d+) errors?/g
      : /RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?, (\d+) warnings?\)/g;
  const sums = [...output.matchAll(pattern)];
  if (sums.length === 0) return undefined;
  const total = (index: number) => sums.reduce((sum, match) => sum + Number(match[index] ?? 0), 0);
  return { errors: total(1), warnings: total(2) };
}

/** Names of tests by what became of them, from the JSON that vitest's reporter writes. */
export interface TestNames {
  readonly passed: readonly string[];
  readonly failed: readonly string[];
  /** Left out by the pattern, or because there is no GPU. */
  readonly skipped: readonly string[];
}

interface VitestReport {
  readonly testResults: readonly {
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[];
  }[];
}

export function testNamesOf(json: string): TestNames {
  const { testResults } = JSON.parse(json) as VitestReport;
  const all = testResults.flatMap(({ assertionResults }) => assertionResults);
  const names = (wanted: (status: string) => boolean) =>
    all.filter(({ status }) => wanted(status)).map(({ fullName }) => fullName);
  return {
    passed: names((status) => status === 'passed'),
    failed: names((status) => status === 'failed'),
    skipped: names((status) => status !== 'passed' && status !== 'failed'),
  };
}

/** Tests of what happens where there is no GPU. */
const WITHOUT_GPU = /^without a GPU/;

/** Tests of one file that passed in none of its parts, but for those that `mayMiss` matches. */
export function neverRan(parts: readonly (TestNames | undefined)[], mayMiss = /^$/): string[] {
  const known = parts.flatMap((part) => part ?? []);
  const passed = new Set(known.flatMap((part) => part.passed));
  const all = new Set(known.flatMap((part) => [...part.passed, ...part.failed, ...part.skipped]));
  return [...all].filter((name) => !passed.has(name) && !WITHOUT_GPU.test(name) && !mayMiss.test(name));
}

/** Cuts a file's tests by the element type that their names say first, the last part taking all others. */
export const PARTS: readonly { readonly name: string; readonly pattern: string }[] = [
  ...['f32', 'f16', 'bf16'].map((name) => ({
    name,
    pattern: `^(?:(?!\\b(?:f32|f16|bf16)\\b).)*\\b${name}\\b`,
  })),
  { name: 'others', pattern: '^(?!.*\\b(f32|f16|bf16)\\b)' },
];

export function partOf(testName: string): string {
  const part = PARTS.find(({ pattern }) => new RegExp(pattern).test(testName));
  return present(part, 'part').name;
}
