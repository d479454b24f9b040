// Experts that change places between slots of the host and of a GPU, at every alignment.

import { describe } from 'vitest';
import { CudaBackend } from '../../offload/backends/cuda.js';
import { HAS_GPU } from './cuda-device.js';
import { exchangeCases } from './exchange-cases.js';

describe.skipIf(!HAS_GPU)('experts of files in slots of the host and of a GPU', () => {
  exchangeCases(() => new CudaBackend());
});
