// Reading what compute-sanitizer and vitest print: nothing that went wrong, or did not happen, counts as clean.

import { describe, expect, it } from 'vitest';
import { findingsOf, neverRan, PARTS, partOf, testNamesOf } from '../../bench/gpu/sanitize-report.js';

describe('the sums of compute-sanitizer', () => {
  it('are added over processes', () => {
    const one = '========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n';
    expect(findingsOf('memcheck', one)).toEqual({ errors: 0, warnings: 0 });
    expect(findingsOf('memcheck', `${one}========= ERROR SUMMARY: 1 error\n`)).toEqual({
      errors: 1,
      warnings: 0,
    });
    const race = (text: string) => findingsOf('racecheck', `========= RACECHECK SUMMARY: ${text}\n`);
    expect(race('0 hazards displayed (0 errors, 0 warnings) ')).toEqual({ errors: 0, warnings: 0 });
    expect(race('3 hazards displayed (2 errors, 1 warning)')).toEqual({ errors: 2, warnings: 1 });
    expect(race('1 hazard displayed (1 error, 0 warnings)')).toEqual({ errors: 1, warnings: 0 });
  });

  it('are absent when the tool did not come to its end, or was another one', () => {
    expect(findingsOf('memcheck', '========= Invalid __global__ read of size 4 bytes\n')).toBeUndefined();
    expect(findingsOf('racecheck', '========= ERROR SUMMARY: 0 errors\n')).toBeUndefined();
  });
});

describe('tests that ran', () => {
  const report = (entries: Readonly<Record<string, string>>) =>
    testNamesOf(
      JSON.stringify({
        testResults: [
          { assertionResults: Object.entries(entries).map(([fullName, status]) => ({ fullName, status })) },
        ],
      }),
    );

  it('are those that passed in at least one part of their file', () => {
    const first = report({ 'a f16': 'passed', 'a f32': 'skipped', 'b others': 'pending' });
    const second = report({ 'a f16': 'skipped', 'a f32': 'passed', 'b others': 'failed' });
    expect(first).toEqual({ passed: ['a f16'], failed: [], skipped: ['a f32', 'b others'] });
    expect(neverRan([first, second, undefined])).toEqual(['b others']);
    expect(neverRan([report({ 'without a GPU status says': 'skipped' })])).toEqual([]);
  });

  it('fall into one part each, by the first type in their names', () => {
    const names = {
      'kernels on f16 add': 'f16',
      'x bf16, case 1': 'bf16',
      'from a f32 table': 'f32',
      "attention of 'bf16' over 'f32'": 'bf16',
      rotary: 'others',
    };
    for (const [name, part] of Object.entries(names)) {
      expect(partOf(name)).toBe(part);
      const matching = PARTS.filter(({ pattern }) => new RegExp(pattern).test(name));
      expect(matching.map((one) => one.name)).toEqual([part]);
    }
  });
});
