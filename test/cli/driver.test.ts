// A GPU that cannot be used: what is wrong with the driver, and that the CPU is still there. A driver of our own stands
// in for those that a machine may have.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { ERROR_CODES } from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { tempFolder } from '../helpers/temp-folder.js';

const SOURCE = fileURLToPath(new URL('../helpers/fake-driver.c', import.meta.url));
const ARGUMENTS = ['--name', modelFolder('bloom'), '--prompt', 'Hello', '--max_new_tokens', '2'];
/** A build without nvcc knows no drivers. */
const KNOWS_DRIVERS = !native().cudaStatus().problem.includes('nvcc');

describe.skipIf(!KNOWS_DRIVERS)('a driver', () => {
  let folder: string;

  beforeAll(() => {
    folder = tempFolder();
    const library = join(folder, 'libcuda.so.1');
    const compiled = spawnSync('cc', ['-shared', '-fPIC', '-o', library, SOURCE], { encoding: 'utf8' });
    expect(compiled.stderr).toBe('');
    expect(compiled.status).toBe(0);
  });

  const run = (device: string, env: Readonly<Record<string, string>>) =>
    runCli([...ARGUMENTS, '--device', device], { env: { LD_LIBRARY_PATH: folder, ...env } });

  it.each([
    [
      'older than the build',
      '11040',
      true,
      /the NVIDIA driver knows CUDA 11\.4, but this build needs 1[23]\.\d+: update the driver/,
    ],
    [
      'that shows no GPU',
      '13000',
      false,
      /the NVIDIA driver is there but shows no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES/,
    ],
    [
      'that cannot be used',
      '0',
      false,
      /no NVIDIA driver is loaded \(libcuda\.so\.1 cannot be used\): install the driver/,
    ],
  ])(
    '%s is a sentence where the GPU was asked for, and the CPU computes otherwise',
    async (_, version, told, sentence) => {
      const asked = await run('cuda', { FAKE_CUDA: version });
      expect(asked.status).toBe(ERROR_CODES.NO_DEVICE.exitStatus);
      expect(asked.errors).toHaveLength(1);
      expect(asked.errors[0]).toMatch(sentence);
      expect(asked.errors[0]).toMatch(/^zero-inference: NO_DEVICE: .*; or use --device cpu$/);
      expect(asked.stdout).toBe('');
      const otherwise = await run('auto', { FAKE_CUDA: version });
      expect(otherwise.errors).toEqual([]);
      expect(otherwise.status).toBe(0);
      expect(otherwise.stdout).not.toBe('');
      expect(otherwise.logs.some((line) => line.startsWith('computing on the CPU, because'))).toBe(told);
    },
  );

  it('too old is told to programs as well', () => {
    const library = new URL('../../dist/src/index.js', import.meta.url);
    const code = `import { open } from '${library.href}';
      const engine = await open('${modelFolder('bloom')}', { contextTokens: 32 });
      console.log(engine.info.device, engine.info.warnings.join());
      await open('${modelFolder('bloom')}', { device: 'cuda' }).catch((error) => console.log(error.code, error.message));`;
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '--eval', code], {
      encoding: 'utf8',
      env: { ...process.env, LD_LIBRARY_PATH: folder, FAKE_CUDA: '11040' },
    });
    const [computing, asked] = stdout.split('\n');
    expect(computing).toMatch(
      /^cpu computing on the CPU, because the NVIDIA driver knows CUDA 11\.4, .*; device 'cpu'/,
    );
    expect(asked).toMatch(
      /^NO_DEVICE device is 'cuda', but the NVIDIA driver knows CUDA 11\.4, .*; or give device 'cpu'/,
    );
  });
});
