// Experts that change places between slots of the host and of a device that is the processor as well.

import { describe } from 'vitest';
import { CpuBackend } from '../../offload/backends/cpu.js';
import { exchangeCases } from './exchange-cases.js';

describe('experts of files in slots on both sides', () => {
  exchangeCases(() => new CpuBackend({ virtualDevices: 1 }));
});
