// --compute_dtype by device: machines that run these tests have no GPU, and yet what one is told must be right.

import { expect, it } from 'vitest';
import { computeTypeOn } from '../../src/cli/options/compute-type.js';
import { runCli } from '../helpers/cli.js';

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
