// A first look must take any words, and begin nothing where other layers may be read than those of the folder.

import { describe, expect, it } from 'vitest';
import { parseCommandLine } from '../../src/cli/command-line.js';
import { type EarlyOptions, glance } from '../../src/cli/glance.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { randomFrom } from '../helpers/random.js';

const LAYERS = ['--name', 'm', '--cpu_offload'];

it('says where layers lie, and how they are read', () => {
  const plain = {
    ...{ folder: 'm', restInDram: true },
    ...{ dramMemory: undefined, ioEngine: undefined, directIo: true },
  };
  for (const words of [
    LAYERS,
    ['generate', ...LAYERS],
    ['score', ...LAYERS],
    ['--cpu-offload', '--name=m'],
    [...LAYERS, '--prompt', 'plan', '--max_new_tokens', '3'],
    ['generate', '--prompt', 'plan', 'm', '--cpu_offload'],
    ['-mm', '-p', 'plan', '-n12', '--cpu_offload', 'true'],
    ['--cpu_offload', '-m=m', 'score'],
    ['generate', '--cpu_offload', '--', 'm'],
  ]) {
    expect(glance(words), words.join(' ')).toEqual(plain);
  }
  const told = [...LAYERS, '--dram-memory', '2GiB', '--io_engine=threads', '--no_direct_io'];
  expect(glance(told)).toEqual({
    ...{ folder: 'm', restInDram: true },
    ...{ dramMemory: '2GiB', ioEngine: 'threads', directIo: false },
  });
  // The plan will say where layers rest: whichever it is, the first ones are read.
  for (const words of [
    ['--name', 'm'],
    ['score', '-mm', '--num_gpus', '2', '--parallel', 'tensor'],
    [...LAYERS, '--gpu_resident', '3'],
    [...LAYERS, '--expert_slots', '64'],
    ['generate', 'm', '--cpu_offload=false'],
  ]) {
    expect(glance(words), words.join(' ')).toEqual({ ...plain, restInDram: false });
  }
});

it.each(
  [
    [],
    ['chat', 'm'],
    ['serve', 'm'],
    ['--name', 'm', '--dram_memory', '2GiB'],
    ['--cpu_offload'],
    ['--cpu_offload', '--name'],
    ['plan', ...LAYERS],
    ['doctor', ...LAYERS],
    [...LAYERS, '--nvme-offload-path', '.'],
    [...LAYERS, '--dummy_weights'],
    [...LAYERS, '--ds_config=x.json'],
    ['generate', 'm', '--name', 'n', '--cpu_offload'],
    ['generate', 'm', '--', '--cpu_offload'],
    ['generate', 'm', '-p', '--cpu_offload'],
    ['generate', 'm', 'n', '--cpu_offload'],
    [...LAYERS, '--io_engine', 'threads', '--io_engine', 'auto'],
    [...LAYERS, '--help'],
    [...LAYERS, '-x'],
    ['', '-', '--', '--=', '-x', '--no-name', '--name=', '--cpu_offload=maybe', '\u0000'],
  ].map((words) => ({ words })),
)('begins nothing: $words', ({ words }) => {
  expect(glance(words)).toBeUndefined();
});

describe('a glance and the parser', () => {
  /** What may be begun, by the options as the commands read them. */
  function parsed(words: readonly string[]): EarlyOptions | undefined {
    try {
      const line = parseCommandLine(words);
      if (line.kind !== 'run' || !['generate', 'chat', 'serve', 'batch', 'score'].includes(line.command))
        return undefined;
      const { options } = line;
      if (['nvme_offload_path', 'ds_config', 'dummy_weights'].some((name) => options.has(name)))
        return undefined;
      const elsewhere = ['gpu_resident', 'expert_slots'].some((name) => options.has(name));
      const restInDram = options.flag('cpu_offload') && !elsewhere;
      if (!restInDram && (['chat', 'serve'].includes(line.command) || options.has('dram_memory')))
        return undefined;
      const [dramMemory, ioEngine] = [options.text('dram_memory'), options.text('io_engine')];
      const folder = options.path('name');
      if (folder === undefined) return undefined;
      return { folder, restInDram, dramMemory, ioEngine, directIo: !options.flag('no_direct_io') };
    } catch {
      return undefined;
    }
  }

  const PIECES =
    'generate score chat plan doctor cache completion remove bash m n --name --name=m -m -mm -m=n -p -px -p=-x -text -n12 -n=12 -n 12 -- - --prompt ' +
    '--cpu_offload --cpu-offload --cpu_offload=true --cpu_offload=false true false --dram_memory 1GiB ' +
    '--dram-memory=2GiB --io_engine threads --no_direct_io --nvme_offload_path . --dummy_weights -x --help --json -5';

  it('see the same in any words', () => {
    const pieces = PIECES.split(' ');
    const random = randomFrom(13);
    let begun = 0;
    for (let round = 0; round < 20_000; round++) {
      const count = Math.floor(random() * 7);
      const drawn = Array.from({ length: count }, () => pieces[Math.floor(random() * pieces.length)] ?? '');
      const words = round % 2 === 0 ? drawn : [...drawn, '--cpu_offload', '-mm'];
      const seen = glance(words);
      expect(seen, words.join(' ')).toEqual(parsed(words));
      if (seen) begun++;
    }
    expect(begun).toBeGreaterThan(1000);
  });
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
