// Which GPUs set-up compiles for on which machine, and what becomes of a build when GPUs, nvcc or the wish change.

import { appendFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { CMAKE, Machine, NATIVE } from './helpers/setup-machine.js';

const ALL = '80-real;90a-real;90-virtual';
let machine: Machine;
beforeEach(() => {
  machine = new Machine();
});
const withoutNvcc = () => machine.remove('bin/nvcc');
const change = () => appendFileSync(join(machine.root, 'native/core/memory.cc'), '// more\n');

describe('set-up compiles', () => {
  it.each([
    [['9.0'], '90a-real'],
    [['8.0'], '80-real'],
    [['8.6', '8.9'], '80-real'],
    [['12.0'], '90-virtual'],
    [['9.0', '8.0', '9.0'], '80-real;90a-real'],
    [['7.5'], ''],
    [['7.5', '10.3'], '90-virtual'],
  ])('for GPUs of %j what they run: "%s"', async (capabilities, architectures) => {
    machine.gpus(...capabilities);
    await machine.ready();
    expect(machine.compiledFor()).toBe(architectures);
    expect((await machine.run()).output).toContain('nothing to do');
  });

  it('nothing for GPUs where there are none, though nvcc is there', async () => {
    machine.gpus();
    machine.remove('bin/nvidia-smi');
    machine.installDebianPackages();
    expect((await machine.run()).output).toContain('no part for GPUs, as nvidia-smi shows no GPU here');
    expect(machine.compiledFor()).toBe('');
  });

  it('for all where that is asked for, which is what CMake does by itself', async () => {
    machine.gpus('9.0');
    await machine.ready('--cuda', 'all');
    expect(machine.compiledFor()).toBe(ALL);
    expect(readFileSync(join(NATIVE, 'CMakeLists.txt'), 'utf8')).toContain(
      `set(ZI_CUDA_ARCHITECTURES "${ALL}"`,
    );
  });

  it.each([
    [[], '80-real;90a-real'],
    [['9.0'], '80-real;90a-real'],
    [['12.0'], ALL],
  ])(
    'for all that there is machine code for, where that is asked for, and GPUs of %j',
    async (capabilities, architectures) => {
      machine.gpus(...capabilities);
      await machine.ready('--cuda', 'known');
      expect(machine.compiledFor()).toBe(architectures);
      await machine.ready('--cuda', 'all');
      expect((await machine.run(['--cuda', 'known'])).output).toContain('nothing to do');
    },
  );

  it('also where a variable asks for it, before which an option goes', async () => {
    machine.gpus('9.0');
    machine.installDebianPackages();
    const variable = "data:text/javascript,process.getuid=()=>0;process.env.ZI_CUDA='all'";
    expect(await machine.run([], variable)).toMatchObject({ status: 0 });
    expect(machine.compiledFor()).toBe(ALL);
    expect(await machine.run(['--cuda', 'none'], variable)).toMatchObject({ status: 0 });
    expect(machine.compiledFor()).toBe('');
    const wrong = await machine.run([], variable.replace('all', 'some'));
    expect([wrong.status, wrong.output]).toEqual([2, expect.stringContaining("ZI_CUDA is 'some'")]);
  });

  it.each([
    ['is missing', undefined, 'as there is no nvcc'],
    [
      'is too old',
      'echo Cuda compilation tools, release 11.8, V11.8.89',
      'is of CUDA 11: 12 or later is needed',
    ],
  ])('without GPUs where nvcc %s, whoever asks', async (_, nvcc, sentence) => {
    machine.gpus('9.0');
    withoutNvcc();
    if (nvcc !== undefined) machine.silentProgram('bin/nvcc', nvcc);
    machine.installDebianPackages();
    for (const args of [[], ['--cuda', 'all'], ['--cuda', 'native']]) {
      change();
      const { status, output } = await machine.run(args);
      expect([status, output]).toEqual([0, expect.stringContaining(sentence)]);
      expect(machine.compiledFor()).toBe('');
    }
    machine.silentProgram('bin/nvcc', 'echo nvcc 13');
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.compiledFor()).toBe('90a-real');
  });

  it('nothing where it should for GPUs that are not there', async () => {
    machine.gpus('7.5');
    machine.installDebianPackages();
    const { status, output } = await machine.run(['--cuda', 'native', '--only', 'native']);
    expect([status, output]).toEqual([
      1,
      expect.stringContaining('nvidia-smi shows no GPU of compute capability 8.0'),
    ]);
    expect(machine.calls()).toEqual([]);
  });

  it('no addon that lacks its GPU part without a word', async () => {
    machine.gpus('9.0');
    machine.installDebianPackages();
    machine.buildTool();
    const { status, output } = await machine.run();
    expect([status, output]).toEqual([1, expect.stringContaining('but CMake cannot compile with it')]);
    expect(output).toContain('npm run setup -- --cuda none');
  });
});

describe('a build without GPU part', () => {
  it.each([
    ['gets it when a GPU is there', [], '9.0', '90a-real'],
    ['gets all of it for verify', ['--cuda', 'all'], undefined, ALL],
  ])('%s, and keeps its other objects', async (_, args, capability, architectures) => {
    machine.gpus();
    machine.remove('bin/nvidia-smi');
    await machine.ready();
    machine.write('native/building/object', '');
    if (capability !== undefined) machine.gpus(capability);
    expect(await machine.run(args)).toMatchObject({ status: 0 });
    expect(machine.calls()).toEqual([CMAKE]);
    expect(machine.compiledFor()).toBe(architectures);
    expect(machine.has('native/building/object')).toBe(true);
    expect((await machine.run()).output).toContain('nothing to do');
  });
});

describe('a build with a GPU part', () => {
  beforeEach(async () => {
    machine.gpus('9.0');
    await machine.ready();
  });

  it('stays one where nvcc is not on the path, and where no GPU is', async () => {
    withoutNvcc();
    machine.remove('bin/nvidia-smi');
    expect((await machine.run()).output).toContain('nothing to do');
    expect(machine.calls()).toEqual([]);
  });

  it('serves another machine with it beside its own', async () => {
    machine.gpus('8.0');
    expect(await machine.run()).toMatchObject({ status: 0 });
    expect(machine.compiledFor()).toBe('80-real;90a-real');
    machine.gpus('9.0');
    expect((await machine.run()).output).toContain('nothing to do');
  });

  it('is built by the nvcc that the path no longer leads to', async () => {
    machine.silentProgram('cuda/nvcc', 'echo nvcc 13');
    withoutNvcc();
    machine.write(
      '.setup/native.json',
      JSON.stringify({
        ...JSON.parse(machine.read('.setup/native.json')),
        nvcc: join(machine.root, 'cuda/nvcc'),
      }),
    );
    change();
    const { status, output } = await machine.run();
    expect([status, output]).toEqual([0, expect.stringContaining('GPU part by')]);
  });

  it('does not become one without unless it is asked for', async () => {
    withoutNvcc();
    change();
    const { status, output } = await machine.run();
    expect([status, output]).toEqual([1, expect.stringContaining('npm run setup -- --cuda none')]);
    expect(machine.calls()).toEqual([]);
    const asked = await machine.run(['--cuda', 'none']);
    expect([asked.status, asked.output]).toEqual([0, expect.stringContaining('no part for GPUs')]);
  });
});
