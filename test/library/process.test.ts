// A process of its own with the package in its node_modules: it ends when its program does, however that leaves an engine.

import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, it } from 'vitest';
import { modelFolder } from '../helpers/fixtures.js';
import { HANG_MS } from '../helpers/hang.js';
import { tempFolder } from '../helpers/temp-folder.js';

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = dirname(dirname(HERE));
const NAME = 'shakespeare-bloom';
const PRELUDE = `import { open } from 'zero-inference';
const engine = await open(process.argv[2], { device: 'cpu', contextTokens: 400 });
const long = () => engine.generate('ROMEO:\\n', { maxNewTokens: 300 });
`;

let project: string;
beforeAll(() => {
  project = tempFolder();
  mkdirSync(join(project, 'node_modules'));
  symlinkSync(ROOT, join(project, 'node_modules/zero-inference'));
});

interface Ended {
  readonly status: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(file: string): Ended {
  const options = { cwd: project, encoding: 'utf8', timeout: HANG_MS, killSignal: 'SIGKILL' } as const;
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [file, modelFolder(NAME)], options);
  return { status, signal, stdout, stderr };
}

function runCode(code: string): Ended {
  const file = join(project, 'program.mjs');
  writeFileSync(file, PRELUDE + code);
  return run(file);
}

it.each(['use.mjs', 'use.cjs'])('%s: what a fresh project does', (name) => {
  const file = join(project, name);
  copyFileSync(join(HERE, 'fresh-project', name), file);
  const { stdout, ...ended } = run(file);
  expect(ended).toEqual({ status: 0, signal: null, stderr: '' });
  const { tokens } = JSON.parse(stdout) as { tokens: number[] };
  expect(tokens).toHaveLength(12);
});

const ENDS: readonly (readonly [string, string, Partial<Ended>])[] = [
  ['an engine left open', `await engine.generate('a', { maxNewTokens: 2 }).result;`, {}],
  ['an engine that nobody used', '', {}],
  [
    'errors that nobody looks at',
    `engine.generate(42); engine.generate('a', { maxNewTokens: -1 }); long().cancel();`,
    {},
  ],
  ['closed while nobody looks', `long(); for await (const _ of long()) break; await engine.close();`, {}],
  [
    'an iteration that is abandoned',
    `await long()[Symbol.asyncIterator]().next(); console.log('left');`,
    { stdout: 'left\n' },
  ],
  ['process.exit in the middle of a pass', `long(); setTimeout(() => process.exit(7), 60);`, { status: 7 }],
  ['process.exit with the first piece', `for await (const _ of long()) process.exit(8);`, { status: 8 }],
  [
    'a signal',
    `for await (const _ of long()) process.kill(process.pid, 'SIGTERM');`,
    { status: null, signal: 'SIGTERM' },
  ],
  [
    'a closed engine that is closed again at exit',
    `process.on('exit', () => void engine.close()); await engine.close(); await engine.close(); console.log('closed');`,
    { stdout: 'closed\n' },
  ],
];
it.each(ENDS)('%s', (_, code, expected) => {
  expect(runCode(code)).toEqual({ status: 0, signal: null, stdout: '', stderr: '', ...expected });
});

it('an error of the program in the middle of a text is its own', () => {
  const { status, stderr } = runCode(`for await (const _ of long()) throw new Error('the program’s own');`);
  expect(status).toBe(1);
  expect(stderr).toMatch(/Error: the program’s own/);
  expect(stderr).not.toMatch(/assertion|UnhandledPromise/);
});
