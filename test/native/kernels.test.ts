// The CPU's kernels against float64 for every instruction set: the cases of every device, with attention in f32.

import { describe } from 'vitest';
import { attentionCases } from './attention-cases.js';
import { cacheCases } from './cache-cases.js';
import { CPU_KERNELS } from './cpu-device.js';
import { kernelCases } from './kernel-cases.js';

/** Prompts that fill the tiles of a GPU take float64 seconds each, and no other way through the CPU's kernels than shorter ones. */
const OF_TILES: ReadonlySet<number> = new Set([9, 10]);

for (const device of CPU_KERNELS) {
  describe.skipIf(!device.present)(`kernels for ${device.isa}`, () => {
    kernelCases(device);
    cacheCases(device, { types: ['f32'] });
    attentionCases(device, {
      types: ['f32'],
      tolerance: () => 1e-5,
      placings: (index) => (OF_TILES.has(index) ? [] : device.placings),
      cuts: [0, 19].map((windowTokens) => ({ tokens: 90, heads: 6, steps: [1, 7, 31], windowTokens })),
    });
  });
}
