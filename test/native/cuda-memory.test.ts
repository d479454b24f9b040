// Memory of a GPU that is not there when it is asked for, as when somebody else took it since the plan was made.

import { describe, expect, it } from 'vitest';
import { CudaBackend, GiB, OperatingError, present } from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import { HAS_GPU } from './cuda-device.js';

describe.skipIf(!HAS_GPU)('memory of a GPU', () => {
  it('that is not there is refused in a sentence with the numbers, and what fits is given afterwards', async () => {
    const backend = new CudaBackend();
    const device = present(backend.devices[0], 'device');
    const refused = () => device.allocate(native().cudaFreeBytes(0) + GiB);
    expect(refused).toThrow(OperatingError);
    expect(refused).toThrow(
      /^[\d.]+ GiB cannot be allocated on cuda:0, which has [\d.]+ GiB free: .*; give a smaller --gpu_memory$/,
    );
    expect(device.allocate(GiB / 1024).sizeBytes).toBe(GiB / 1024);
    await backend.close();
  });
});
