// Caches of every type on the GPU: the cases of every device, with k, v and queries of every type.

import { describe } from 'vitest';
import { cacheCases } from './cache-cases.js';
import { GPU_KERNELS, HAS_GPU } from './cuda-device.js';

describe.skipIf(!HAS_GPU)('CUDA caches', () => {
  cacheCases(GPU_KERNELS, { types: ['f32', 'f16', 'bf16'] });
});
