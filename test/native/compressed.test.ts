// The CPU's kernels of compressed entries, windows and residual streams against float64, for every instruction set.

import { describe } from 'vitest';
import { compressedCases } from './compressed-cases.js';
import { CPU_KERNELS } from './cpu-device.js';

for (const device of CPU_KERNELS) {
  describe.skipIf(!device.present)(`compressed for ${device.isa}`, () => {
    compressedCases(device, { activations: ['f32'] });
  });
}
