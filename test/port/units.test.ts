// Sizes as users write and read them.

import { expect, it } from 'vitest';
import { formatBytes, formatRate, GiB, MiB, parseBytes, roundDown, roundUp } from '../../offload/index.js';

it.each([
  ['2GiB', 2 * GiB],
  ['1.5 gib', 1.5 * GiB],
  ['512M', 512 * MiB],
  ['4GB', 4e9],
  ['1048576', MiB],
])('reads %s', (text, bytes) => {
  expect(parseBytes(text, '--dram_memory')).toBe(bytes);
});

it.each(['', 'GiB', '-1GiB', '2 gigs', '0', '1e3', '9999999TiB'])(
  'refuses %j and names the option',
  (text) => {
    expect(() => parseBytes(text, '--dram_memory')).toThrow(/--dram_memory/);
  },
);

it('prints three digits', () => {
  expect(formatBytes(0)).toBe('0 B');
  expect(formatBytes(1536)).toBe('1.50 KiB');
  expect(formatBytes(436 * MiB)).toBe('436 MiB');
  expect(formatBytes(12.34 * GiB)).toBe('12.3 GiB');
  expect(formatRate(2.131e9)).toBe('2.13 GB/s');
  expect(formatRate(5e7)).toBe('50.0 MB/s');
});

it('rounds to multiples', () => {
  expect([roundUp(0, 8), roundUp(1, 8), roundUp(8, 8)]).toEqual([0, 8, 8]);
  expect([roundDown(7, 8), roundDown(8, 8), roundDown(15, 8)]).toEqual([0, 8, 8]);
});
