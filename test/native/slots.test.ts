// Experts in slots on the CPU, which reads where they lie before it multiplies.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/port/native.js';
import { CPU_KERNELS } from './cpu-device.js';
import { productWithoutExpert, slotCases } from './slot-cases.js';

const [device] = CPU_KERNELS;

describe.skipIf(!device)('experts in slots', () => {
  if (!device) return;
  slotCases(device);

  it('a chosen expert that lies in none is named, and ends the work', async () => {
    const broken = native().createStream('slots');
    broken.launch(encodeOp(productWithoutExpert(device.workbench(1))));
    await expect(broken.record().promise()).rejects.toThrow('expert 2 of choice 0 lies in no slot');
    broken.close();
  });
});
