// A first look must take any words, and begin nothing where layers may rest elsewhere than in DRAM.

import { describe, expect, it } from 'vitest';
import { glance } from '../../src/cli/glance.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';

const LAYERS = ['--name', 'm', '--cpu_offload'];

it('says where layers lie, and how they are read', () => {
  const plain = { folder: 'm', dramMemory: undefined, ioEngine: undefined, directIo: true };
  for (const words of [
    LAYERS,
    ['generate', ...LAYERS],
    ['score', ...LAYERS],
    ['--cpu-offload', '--name=m'],
    [...LAYERS, '--prompt', 'plan', '--max_new_tokens', '3'],
  ]) {
    expect(glance(words), words.join(' ')).toEqual(plain);
  }
  const told = [...LAYERS, '--dram-memory', '2GiB', '--io_engine=threads', '--no_direct_io'];
  expect(glance(told)).toEqual({ folder: 'm', dramMemory: '2GiB', ioEngine: 'threads', directIo: false });
});

it.each(
  [
    [],
    ['--name', 'm'],
    ['--cpu_offload'],
    ['--cpu_offload', '--name'],
    ['plan', ...LAYERS],
    ['doctor', ...LAYERS],
    [...LAYERS, '--gpu_resident', '3'],
    [...LAYERS, '--nvme-offload-path', '.'],
    [...LAYERS, '--dummy_weights'],
    [...LAYERS, '--ds_config=x.json'],
    ['', '-', '--', '--=', '-x', '--no-name', '--name=', '--cpu_offload=maybe', '\u0000'],
  ].map((words) => ({ words })),
)('begins nothing: $words', ({ words }) => {
  expect(glance(words)).toBeUndefined();
});

describe('what a glance took for layers', () => {
  const model = modelFolder('llama');
  const prompts = ['--prompts_file', `${model}/nothing.jsonl`];

  it.each([
    // The words of a prompt, an option that is given twice, and a command that wants none of it.
    [['--name', model, '--prompt', '--cpu_offload'], 2],
    [['--name', model, '--cpu_offload', '--io_engine', 'threads', '--io_engine', 'auto'], 2],
    [['--name', model, '--cpu_offload', '--help'], 0],
    [['--name', model, '--cpu_offload', ...prompts], 3],
    [['--name', '/nowhere', '--cpu_offload'], 3],
  ])('%j ends with its own status', async (words, status) => {
    const result = await runCli(words);
    expect(result.signal).toBeNull();
    expect(result.status).toBe(status);
  });
});
