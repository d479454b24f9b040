// Experts in slots on a GPU, whose kernels decide who comes and copy from host memory themselves.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { GPU_KERNELS, gpuBench, gpuStream, HAS_GPU } from './cuda-device.js';
import { productWithoutExpert, slotCases } from './slot-cases.js';

describe.skipIf(!HAS_GPU)('experts in slots on a GPU', () => {
  slotCases(GPU_KERNELS);

  // The last one: nothing is queued on a device that has failed.
  it('a chosen expert that lies in none is named, and ends the work', async () => {
    gpuStream().launch(encodeOp(productWithoutExpert(gpuBench(1, false))));
    await expect(gpuStream().record().promise()).rejects.toThrow('expert 2 of choice 0 lies in no slot');
  });
});
