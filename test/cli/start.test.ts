// The program on a machine that it cannot run on, or that was not set up: one sentence, whatever Node makes of the rest.

import { spawnSync } from 'node:child_process';
import { cpSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES } from '../../offload/index.js';
import { operationTable } from '../../offload/port/op-table.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { tempFolder } from '../helpers/temp-folder.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const MAIN = join(ROOT, 'dist/src/main.js');
const RUN = ['--device', 'cpu', '--name', modelFolder('bloom'), '--prompt', 'x', '--max_new_tokens', '1'];

function run(main: string, ...preload: string[]) {
  const imports = preload.flatMap((code) => ['--import', `data:text/javascript,${code}`]);
  return spawnSync(process.execPath, [...imports, main, ...RUN], { encoding: 'utf8' });
}

describe('a Node that is too old', () => {
  it('is named before anything is imported that it might refuse', () => {
    const { status, stdout, stderr } = run(
      MAIN,
      "Object.defineProperty(process,'versions',{value:{node:'16.20.2'}})",
    );
    expect(stderr).toMatch(
      /^zero-inference: UNSUPPORTED: Node 16\.20\.2 is too old: use Node 20 or later.*\n$/,
    );
    expect(status).toBe(ERROR_CODES.UNSUPPORTED.exitStatus);
    expect(stdout).toBe('');
  });

  it('can read the entry: nothing is imported at its top, and no syntax is newer than modules', () => {
    const text = readFileSync(MAIN, 'utf8');
    expect(text).not.toMatch(/^import\s|\?\.[a-z[(]|\?\?|^\s*await |\.at\(|#\w+\s*=/m);
    // Else each module is a file of its own, and a start takes twice as long.
    expect(text).toContain('import("./program/start.js")');
  });
});

describe('a program that was set up in part', () => {
  /** Compiled files, packages and the description in a folder of their own, without an addon. */
  function copy(): string {
    const folder = tempFolder();
    for (const name of ['dist/src', 'dist/offload', 'package.json']) {
      cpSync(join(ROOT, name), join(folder, name), { recursive: true });
    }
    symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
    return folder;
  }

  it('says what to run where there is no addon, and where there are no packages', () => {
    const folder = copy();
    const main = join(folder, 'dist/src/main.js');
    const noAddon = run(main);
    const where = `run \`node ${join(folder, 'native/setup.mjs')}\``;
    expect(noAddon.stderr).toContain(
      `NOT_FOUND: the native addon is neither built nor installed as @zero-inference/linux-x64: ${where}`,
    );
    expect(noAddon.status).toBe(ERROR_CODES.NOT_FOUND.exitStatus);
    rmSync(join(folder, 'node_modules'));
    const noPackages = run(main);
    expect(noPackages.stderr).toMatch(
      /^zero-inference: NOT_FOUND: Cannot find package '\w+': run `npm run setup` in a clone, or `npm install` in a project that has it\n$/,
    );
    expect(noPackages.status).toBe(ERROR_CODES.NOT_FOUND.exitStatus);
  });

  it.each([
    ["process,'platform',{value:'darwin'}", 'darwin is not supported'],
    ["process,'arch',{value:'arm64'}", 'arm64 is not supported'],
  ])('on another machine says that it cannot be: %s', (property, sentence) => {
    const { status, stderr } = run(MAIN, `Object.defineProperty(${property})`);
    expect(stderr).toContain(`UNSUPPORTED: ${sentence}`);
    expect(status).toBe(ERROR_CODES.UNSUPPORTED.exitStatus);
  });

  it.each([
    ['half of it', /cannot be loaded \(.*(file too short|invalid ELF header)\): run `npm run setup`/],
    [undefined, /ZI_ADDON names .*addon.node, which does not exist/],
  ])('names an addon that is %s', async (content, sentence) => {
    const path = join(tempFolder(), 'addon.node');
    if (content !== undefined) writeFileSync(path, content);
    const { status, errors } = await runCli(RUN, { env: { ZI_ADDON: path } });
    expect(errors).toEqual([expect.stringMatching(sentence)]);
    expect(status).toBe(ERROR_CODES.NOT_FOUND.exitStatus);
  });

  it('names an addon of other sources', async () => {
    const path = join(tempFolder(), 'addon.cjs');
    writeFileSync(path, 'exports.nowMs = () => 0;');
    const { status, errors } = await runCli(RUN, { env: { ZI_ADDON: path } });
    expect(errors).toEqual([
      expect.stringMatching(/it is of other sources and has no .*instructionSets, .*npm run setup/),
    ]);
    expect(status).toBe(ERROR_CODES.NOT_FOUND.exitStatus);
  });

  it.each([
    ['lines[3] = "linear: out x"', /reads `linear: out x` where `linear: out x weight .*` is written/],
    ['lines.pop()', /reads `nothing` where `weights: .*` is written/],
    ['lines.push("more")', /reads `more` where `nothing` is written/],
  ])('names an addon that reads operations otherwise: %s', async (change, sentence) => {
    const path = join(tempFolder(), 'addon.cjs');
    const lines = JSON.stringify(operationTable());
    writeFileSync(
      path,
      `const lines = ${lines}; ${change};
       module.exports = new Proxy({ operationTable: () => lines }, { has: () => true });`,
    );
    const { status, errors } = await runCli(RUN, { env: { ZI_ADDON: path } });
    expect(errors).toEqual([expect.stringMatching(sentence)]);
    expect(errors[0]).toMatch(/npm run setup/);
    expect(status).toBe(ERROR_CODES.NOT_FOUND.exitStatus);
  });
});

it.each([22, 24, 26, 32, 48, 64])('with at most %i open files says so, or runs', (most) => {
  const line = `ulimit -n ${most}; exec "$0" "$@"`;
  const { status, stderr } = spawnSync(
    'sh',
    ['-c', line, process.execPath, MAIN, ...RUN, '--log_level', 'error'],
    {
      encoding: 'utf8',
    },
  );
  if (status === 0) return expect(stderr).toBe('');
  expect(stderr).toMatch(/^zero-inference: SYSTEM_LIMIT: [^\n]*ulimit -n[^\n]*\n$/);
  return expect(status).toBe(ERROR_CODES.SYSTEM_LIMIT.exitStatus);
});
