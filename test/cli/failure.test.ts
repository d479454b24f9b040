// The last line of a run that fails: what the system refused is told as such, everything else as a fault of the program.

import { readFileSync, renameSync } from 'node:fs';
import { expect, test } from 'vitest';
import { describeFailure } from '../../src/cli/failure.js';

function told(call: () => unknown): { text: string; exitStatus: number } {
  try {
    call();
  } catch (error) {
    return describeFailure(error, false);
  }
  throw new Error('it was to fail');
}

const refused = (code: string, syscall: string) => () => {
  throw Object.assign(new Error(`${code}: refused, ${syscall}`), {
    code,
    syscall,
    errno: -1,
    path: '/there',
  });
};

test.each([
  [() => readFileSync('/none/at all'), 'NOT_FOUND', 3],
  [() => readFileSync('/'), 'READ_FAILED', 8],
  [() => renameSync('/none', '/there'), 'WRITE_FAILED', 8],
  [refused('EIO', 'stat'), 'READ_FAILED', 8],
  [refused('ENOSPC', 'write'), 'WRITE_FAILED', 8],
  [refused('EMFILE', 'open'), 'SYSTEM_LIMIT', 6],
])('what the system refuses has a code: %#', (call, code, exitStatus) => {
  const failure = told(call);
  expect(failure.text).toMatch(new RegExp(`^zero-inference: ${code}: [^\\n]+: [^\\n]+\\n$`));
  expect(failure.exitStatus).toBe(exitStatus);
});

test('everything else is a fault of the program', () => {
  const failure = told(() => Buffer.alloc(-1));
  expect(failure.text).toMatch(/^zero-inference: INTERNAL: .*a fault of this program/);
  expect(failure.exitStatus).toBe(1);
});
