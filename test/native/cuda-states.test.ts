// Kernels of layers with a state on a GPU: the cases of every device, with activations of every type.

import { describe } from 'vitest';
import { GPU_KERNELS, HAS_GPU } from './cuda-device.js';
import { stateCases } from './state-cases.js';

describe.skipIf(!HAS_GPU)('CUDA states', () => {
  stateCases(GPU_KERNELS, { activations: ['f32', 'bf16', 'f16'], chunks: true });
});
