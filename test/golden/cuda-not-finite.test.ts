// Values that are no finite numbers on a GPU: the cases of every device; skipped, and counted, without a GPU.

import { describe } from 'vitest';
import { cudaStatus } from '../../offload/index.js';
import { notFiniteCases } from '../engine/not-finite-cases.js';

describe.skipIf(cudaStatus().problem !== '')('on a GPU', () => notFiniteCases({ device: 'cuda' }));
