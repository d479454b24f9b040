// What is no finite number stays so through the CPU's kernels, for every instruction set.

import { describe } from 'vitest';
import { CPU_KERNELS } from './cpu-device.js';
import { spreadCases } from './spread-cases.js';

for (const device of CPU_KERNELS) {
  describe.skipIf(!device.present)(`not finite, with ${device.isa}`, () => spreadCases(device, ['f32']));
}
