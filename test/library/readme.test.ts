// The README's programs run as they are written, on a small model.

import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { modelFolder } from '../helpers/fixtures.js';
import { HANG_MS } from '../helpers/hang.js';
import { tempFolder } from '../helpers/temp-folder.js';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const README = readFileSync(join(ROOT, 'README.md'), 'utf8');
/** Those that open a model themselves: clients of a server are run by its tests. */
const PROGRAMS = [...README.matchAll(/^```js\n([\s\S]*?)^```$/gm)]
  .map(([, code = '']) => code)
  .filter((code) => code.includes("open('FOLDER'"));

let project: string;
beforeAll(() => {
  project = tempFolder();
  mkdirSync(join(project, 'node_modules'));
  symlinkSync(ROOT, join(project, 'node_modules/zero-inference'));
});

function run(program: number): string {
  const code = present(PROGRAMS[program], 'program');
  const file = join(project, `program-${program}.mjs`);
  writeFileSync(file, code.replace("'FOLDER'", JSON.stringify(modelFolder('shakespeare-bloom'))));
  const { status, stdout, stderr } = spawnSync(process.execPath, [file], {
    encoding: 'utf8',
    timeout: HANG_MS,
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout;
}

it('are all run here', () => {
  expect(PROGRAMS).toHaveLength(3);
});

it('a text, piece by piece', () => {
  expect(run(0)).toMatch(/^\S[\s\S]{20,}$/);
});

it('several texts, one of which has an error', () => {
  const lines = run(1).trim().split('\n');
  expect(lines).toHaveLength(3);
  for (const line of lines.slice(0, 2)) {
    const { first, finishReason } = JSON.parse(line) as { first: number[]; finishReason: string };
    expect(finishReason).toMatch(/stop|length/);
    expect(first[1]).toBeLessThan(0);
  }
  expect(lines[2]).toMatch(/^BAD_OPTION: prompts of messages need a chat template/);
});

it('a score', () => {
  expect(run(2)).toMatch(/^\d\.\d{4} \d+\.\d\d \d+\n$/);
});
