// What a shell is offered: the words that may come next, and nothing that the parser would refuse.

import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parseCommandLine } from '../../src/cli/command-line.js';
import { complete } from '../../src/cli/completion/candidates.js';
import { COMMANDS } from '../../src/cli/options/tables/commands.js';
import { runCli } from '../helpers/cli.js';
import { fillCache } from '../helpers/filled-cache.js';
import { tempFolder } from '../helpers/temp-folder.js';

const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));
const ALL = Object.keys(COMMANDS);

const CASES: readonly (readonly [readonly string[], readonly string[], ('file' | 'folder')?])[] = [
  [[''], ALL],
  [[], ALL],
  [['sc'], ['score']],
  [['--log_level', 'debug', 'do'], ['doctor']],
  [
    ['generate', '--max'],
    ['--max_new_tokens', '--max_context'],
  ],
  [['generate', '--max-n'], ['--max-new-tokens']],
  [['generate', '--cpu_offload', '--cpu'], ['--cpu_compute']],
  [
    ['generate', '-p', 'x', '--promp'],
    ['--prompt', '--prompts_file', '--prompts_format'],
  ],
  [
    ['generate', '--device', ''],
    ['auto', 'cpu', 'cuda'],
  ],
  [['generate', '--device=cu'], ['cuda']],
  [
    ['generate', '--device', '='],
    ['auto', 'cpu', 'cuda'],
  ],
  [['generate', '--device', '=', 'cp'], ['cpu']],
  [['--io-engine', 'io'], ['io_uring']],
  [['generate', '--cpu_offload=f'], ['false']],
  [['generate', '-m', ''], [], 'folder'],
  [['generate', '-n', ''], []],
  [['generate', ''], [], 'folder'],
  [['generate', '-n5', ''], [], 'folder'],
  [['generate', 'model', ''], []],
  [['generate', '--', '--dev'], [], 'folder'],
  [['generate', '--dummy_weights', ''], [], 'folder'],
  [['generate', '--dummy_weights', '--dt'], ['--dtype']],
  [['score', '--text_file', ''], [], 'file'],
  [['plan', '--machine=configs'], [], 'file'],
  [['doctor', ''], []],
  [
    ['completion', ''],
    ['bash', 'zsh', 'fish'],
  ],
  [['completion', 'zsh', ''], []],
  [
    ['cache', ''],
    ['list', 'remove'],
  ],
  [['cache', 'remove', ''], [], 'folder'],
  [['generate', '--nonsense', ''], [], 'folder'],
  [['generate', '--nonsense='], []],
];

it.each(CASES.map(([words, expected, names]) => ({ words, expected, names })))(
  '$words',
  ({ words, expected, names }) => {
    const { candidates, names: found } = complete(words);
    expect(candidates.map(({ word }) => word)).toEqual(expected);
    expect(found).toBe(names);
  },
);

it('every option that is offered for a command is one of it', () => {
  for (const command of ALL) {
    const { candidates } = complete([command, '--']);
    expect(candidates.length).toBeGreaterThan(1);
    for (const { word } of candidates) {
      const line = parseCommandLine([command, `${word}${word === '--help' ? '' : '=true'}`]);
      expect(line.kind, word).toBe(word === '--help' ? 'help' : 'run');
    }
  }
});

it('models that are in the cache are offered where a model may stand', async () => {
  const env = { HF_HUB_CACHE: fillCache(tempFolder()).cache };
  const ask = async (...words: string[]) => (await runCli(['--get-completions', ...words], { env })).stdout;
  expect(await ask('generate', '')).toBe('org/name\n:folder\n');
  expect(await ask('score', '--name=org/')).toBe('org/name\n:folder\n');
  expect(await ask('cache', 'remove', 'other')).toBe(':folder\n');
  expect(await ask('generate', '--dummy_weights', '')).toBe(':folder\n');
});

describe('scripts', () => {
  it.each(['bash', 'zsh', 'fish'])('%s asks the program', async (shell) => {
    const { stdout, status } = await runCli(['completion', shell]);
    expect(status).toBe(0);
    expect(stdout).toContain('--get-completions');
    const { stdout: own } = await runCli(['completion'], { env: { SHELL: `/usr/bin/${shell}` } });
    expect(own).toBe(stdout);
  });

  it('no other shells', async () => {
    expect((await runCli(['completion', 'tcsh'])).errors).toEqual([
      "zero-inference: BAD_OPTION: there is no completion for 'tcsh': give one of bash, zsh, fish",
    ]);
  });

  it('bash puts in what the program offers, and names of files, with spaces too', async () => {
    const { stdout: script } = await runCli(['completion', 'bash']);
    const folder = tempFolder();
    symlinkSync(MAIN, join(folder, 'zero-inference'));
    chmodSync(MAIN, 0o755);
    mkdirSync(join(folder, 'a model'));
    writeFileSync(join(folder, 'a text'), '');
    const lines = [
      script,
      'compopt() { :; }',
      'ask() {',
      '  COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _zero_inference',
      `  printf '<%s>' "\${COMPREPLY[@]}"; echo`,
      '}',
      'ask zero-inference sco',
      'ask zero-inference generate --device = cu',
      'ask zero-inference generate --device =',
      'ask zero-inference generate "a "',
      'ask zero-inference score --text_file "a "',
    ];
    const { stdout, stderr } = spawnSync('bash', ['-c', lines.join('\n')], {
      cwd: folder,
      encoding: 'utf8',
      env: { ...process.env, PATH: `${folder}:${process.env.PATH}` },
    });
    expect(stderr).toBe('');
    const answers = stdout.trim().split('\n');
    expect(answers.map((line) => (line.match(/<[^>]*>/g) ?? []).sort().join(''))).toEqual([
      '<score>',
      '<cuda>',
      '<auto><cpu><cuda>',
      '<a model>',
      '<a model><a text>',
    ]);
  });
});
