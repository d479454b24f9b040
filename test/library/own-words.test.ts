// Programs are told of their own options: whatever a sentence from below calls one, there is a name for it here.

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { OperatingError } from '../../offload/errors.js';
import { inOwnWords, OPTION_NAMES, ownWords } from '../../src/library/own-words.js';
import { filesBelow } from '../helpers/source-map.js';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** Named only where such an option is given, and programs cannot give it; or by commands. */
const NEVER_MET = [
  '--gather',
  '--virtual_devices',
  '--gpu_resident',
  '--expert_slots',
  '--cpu_compute',
  '--io_engine',
  // A model without a chat template has another sentence here.
  '--prompt',
  // Shapes without a checkpoint are for commands.
  '--dtype',
  // Devices that compute together are for commands.
  '--parallel',
  '--num_gpus',
  // Files that machines are described in, for `plan`.
  '--save',
];

it('every option that a sentence below the command line names has a name here', () => {
  const folders = [
    'offload',
    ...'engine hub text staging checkpoint models files'.split(' ').map((name) => `src/${name}`),
  ];
  const named = folders
    .flatMap((folder) => filesBelow(ROOT, folder))
    .filter((path) => path.endsWith('.ts'))
    .flatMap((path) => {
      const code = readFileSync(join(ROOT, path), 'utf8').replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
      const strings = code.match(/'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/g) ?? [];
      return strings.flatMap((text) => text.match(/(?<![\w-])--[a-z][a-z_]+/g) ?? []);
    });
  const without = new Set(named.filter((option) => !(option in OPTION_NAMES) && !NEVER_MET.includes(option)));
  expect([...without]).toEqual([]);
  expect(named.length).toBeGreaterThan(10);
});

it('a sentence keeps everything else, and an error its code and cause', () => {
  expect(ownWords('lower --batch_size, or --dram_memory 4GiB; see --help')).toBe(
    'lower maxSequences, or dramMemory 4GiB; see --help',
  );
  const below = new OperatingError('DOES_NOT_FIT', 'raise --dram_memory');
  expect(inOwnWords(below)).toMatchObject({
    code: 'DOES_NOT_FIT',
    message: 'raise dramMemory',
    cause: below,
  });
  const plain = new OperatingError('NOT_FOUND', 'nothing there');
  expect(inOwnWords(plain)).toBe(plain);
  expect(inOwnWords('thrown as it is')).toBe('thrown as it is');
});

it('what the system refuses has a code', () => {
  const refusal = Object.assign(new Error('EMFILE: too many open files'), {
    syscall: 'open',
    code: 'EMFILE',
    path: '/a',
  });
  expect(inOwnWords(refusal)).toMatchObject({ code: 'SYSTEM_LIMIT', cause: refusal });
});
