// The CPU's kernels of layers with a state against float64, for every instruction set.

import { describe } from 'vitest';
import { CPU_KERNELS } from './cpu-device.js';
import { stateCases } from './state-cases.js';

for (const device of CPU_KERNELS) {
  describe.skipIf(!device.present)(`states for ${device.isa}`, () => {
    stateCases(device, { activations: ['f32'], chunks: false });
  });
}
