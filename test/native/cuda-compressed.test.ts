// Kernels of compressed entries, windows and residual streams on a GPU: the cases of every device.

import { describe } from 'vitest';
import { compressedCases } from './compressed-cases.js';
import { GPU_KERNELS, HAS_GPU } from './cuda-device.js';

describe.skipIf(!HAS_GPU)('CUDA compressed', () => {
  compressedCases(GPU_KERNELS, { activations: ['f32', 'bf16', 'f16'] });
});
