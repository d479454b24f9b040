// What is no finite number stays so through the GPU's kernels, in all types of activations.

import { describe } from 'vitest';
import { GPU_KERNELS, HAS_GPU, OWN_KERNELS_ONLY } from './cuda-device.js';
import { spreadCases } from './spread-cases.js';

describe.skipIf(!HAS_GPU)('not finite on a GPU', () =>
  spreadCases(GPU_KERNELS, ['f32', 'f16', 'bf16'], OWN_KERNELS_ONLY ? [2] : undefined),
);
