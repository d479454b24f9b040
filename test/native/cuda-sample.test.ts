// Drawing tokens on the GPU: the cases of every device.

import { describe } from 'vitest';
import { GPU_KERNELS, HAS_GPU } from './cuda-device.js';
import { sampleCases } from './sample-cases.js';

describe.skipIf(!HAS_GPU)('CUDA sample', () => sampleCases(GPU_KERNELS));
