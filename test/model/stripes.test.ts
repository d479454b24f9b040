// Striped files: shares by rates, and where each byte lies.

import { describe, expect, test } from 'vitest';
import { present } from '../../offload/errors.js';
import {
  partBytes,
  type StripedFile,
  secondsPerByte,
  stripeRuns,
  stripesFor,
} from '../../offload/model/stripes.js';
import { READ_ALIGNMENT_BYTES } from '../../offload/port/backend.js';
import { KiB, MiB } from '../../offload/units.js';
import { randomFrom } from '../helpers/random.js';

describe('shares', () => {
  test.each([
    [
      [1, 1],
      [512 * KiB, 512 * KiB],
    ],
    [
      [7e9, 7e9, 7e9],
      [512 * KiB, 512 * KiB, 512 * KiB],
    ],
    [
      [2, 2, 4],
      [384 * KiB, 384 * KiB, 768 * KiB],
    ],
    [[3e9], [512 * KiB]],
  ])('of %j', (rates, shares) => {
    expect(stripesFor(rates).shareBytes).toEqual(shares);
  });

  test('are aligned, sum up to a period, and lose next to nothing against rates that divide evenly', () => {
    const random = randomFrom(5);
    for (let i = 0; i < 200; i++) {
      const rates = Array.from({ length: 1 + Math.floor(random() * 8) }, () => 1e8 * 2 ** (random() * 6));
      const stripes = stripesFor(rates);
      expect(stripes.shareBytes.every((bytes) => bytes > 0 && bytes % READ_ALIGNMENT_BYTES === 0)).toBe(true);
      expect(stripes.shareBytes.reduce((sum, bytes) => sum + bytes, 0)).toBe(stripes.periodBytes);
      const ideal = 1 / rates.reduce((sum, rate) => sum + rate, 0);
      expect(secondsPerByte(stripes, rates) / ideal).toBeLessThan(1.1);
    }
  });

  test('a drive that is a hundred times slower still has a part that it can read at once', () => {
    const { shareBytes, periodBytes } = stripesFor([100, 1]);
    expect(periodBytes).toBe(4 * MiB);
    expect(Math.min(...shareBytes)).toBeGreaterThanOrEqual(40 * KiB);
  });
});

test('every byte of a striped file is found once, in its part, in order', () => {
  const random = randomFrom(9);
  const between = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
  for (let round = 0; round < 30; round++) {
    const count = between(1, 4);
    const shareBytes = Array.from({ length: count }, () => between(1, 5) * 16);
    const stripes = { shareBytes, periodBytes: shareBytes.reduce((sum, bytes) => sum + bytes, 0) };
    const content = Buffer.from(Array.from({ length: between(1, 1500) }, () => between(0, 255)));
    const whole = between(-1, count - 1);
    const file: StripedFile = {
      stripes,
      parts: shareBytes.map((_, drive) => ({ path: `${drive}`, isWhole: drive === whole })),
    };
    // As a writer puts it there.
    const parts = shareBytes.map(() => Buffer.alloc(content.length, 0));
    const used = shareBytes.map(() => 0);
    for (const run of stripeRuns(file, 0, content.length)) {
      const part = present(parts[run.drive], 'part');
      content.copy(part, run.partOffset, run.offsetBytes, run.offsetBytes + run.sizeBytes);
      used[run.drive] = Math.max(present(used[run.drive], 'used'), run.partOffset + run.sizeBytes);
    }
    for (const [drive, bytes] of used.entries()) {
      if (drive !== whole) expect(bytes).toBe(partBytes(stripes, drive, content.length));
    }
    for (let i = 0; i < 20; i++) {
      const from = between(0, content.length - 1);
      const size = between(1, content.length - from);
      const read = Buffer.alloc(size);
      let next = 0;
      for (const run of stripeRuns(file, from, size)) {
        expect(run.offsetBytes).toBe(next);
        next += run.sizeBytes;
        present(parts[run.drive], 'part').copy(
          read,
          run.offsetBytes,
          run.partOffset,
          run.partOffset + run.sizeBytes,
        );
      }
      expect(next).toBe(size);
      expect(read.equals(content.subarray(from, from + size))).toBe(true);
    }
  }
});
