// --compute_dtype by device: machines that run these tests have no GPU, and yet what one is told must be right.

import { expect, it, vi } from 'vitest';
import { native } from '../../offload/port/native.js';
import { parseCommandLine } from '../../src/cli/command-line.js';
import { computeTypeOn } from '../../src/cli/options/compute-type.js';
import { readSharedOptions } from '../../src/cli/options/shared-options.js';
import { runCli } from '../helpers/cli.js';

const GPU = {
  name: 'one',
  busId: '0000:01:00.0',
  totalBytes: 24e9,
  freeBytes: 24e9,
  computeCapability: '9.0',
  multiprocessors: 100,
};

it('leaves a GPU its own type unless float32 is wanted, and refuses it the types of the CPU', () => {
  expect(computeTypeOn('cuda', undefined)).toBeUndefined();
  expect(computeTypeOn('cuda', 'auto')).toBeUndefined();
  expect(computeTypeOn('cuda', 'float32')).toBe('float32');
  expect(computeTypeOn('cpu', undefined)).toBeUndefined();
  expect(computeTypeOn('cpu', 'bfloat16_tiles')).toBe('bfloat16_tiles');
  for (const type of ['bfloat16', 'float32_tiles', 'bfloat16_tiles'] as const) {
    expect(() => computeTypeOn('cuda', type)).toThrow(`--compute_dtype ${type} is for --device cpu`);
  }
});

it('is that of a GPU that a plan is given a description of', async () => {
  const words = ['plan', '--name', 'configs/models/mixtral-8x7b.json', '--batch_size', '4'];
  const gpu = ['--machine', 'configs/machines/desktop-24g.json'];
  const cacheOf = async (...more: string[]) =>
    /key-value cache .*, (\w+) \(/.exec((await runCli([...words, ...gpu, ...more])).stdout)?.[1];
  expect(await cacheOf()).toBe('bfloat16');
  expect(await cacheOf('--compute_dtype', 'float32')).toBe('float32');
});

it.each([['generate', '--prompt', 'x'], ['score', '--text_file', 'x'], ['plan']])(
  '%s takes the GPUs of a machine that has some, whatever is not given',
  (command, ...words) => {
    const status = vi.spyOn(native(), 'cudaStatus');
    try {
      status.mockReturnValue({ problem: '', present: true, products: 'a library', devices: [GPU, GPU] });
      const read = (...more: string[]) => {
        const parsed = parseCommandLine([command, '--name', 'm', ...words, ...more]);
        if (parsed.kind !== 'run') throw new Error(`${command} is not run`);
        return readSharedOptions(parsed.options);
      };
      expect(read()).toMatchObject({ device: 'cuda', deviceCount: 1, plan: {} });
      expect(read('--num_gpus', '2')).toMatchObject({ device: 'cuda', deviceCount: 2 });
      expect(read('--compute_dtype', 'float32').plan).toEqual({ activationType: 'f32' });
      expect(read('--device', 'cpu', '--compute_dtype', 'bfloat16').cpu.computeType).toBe('bfloat16');
    } finally {
      status.mockRestore();
    }
  },
);
