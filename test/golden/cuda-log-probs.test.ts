// Log-probabilities of chosen tokens on a GPU; skipped, and counted, without one.

import { describe } from 'vitest';
import { cudaStatus, GiB } from '../../offload/index.js';
import { logProbCases } from './log-prob-cases.js';
import type { Placement } from './run-model.js';

const ON_GPU: Placement = { device: 'cuda', offload: 'nvme', dramBudgetBytes: GiB };
const OTHERS: readonly Placement[] = [
  { ...ON_GPU, offload: 'dram' },
  { ...ON_GPU, plan: { deviceWindowLayers: 1, deviceResident: { layers: 2 } } },
  { ...ON_GPU, plan: { kvOffload: true } },
];

describe.skipIf(cudaStatus().problem !== '')('on a GPU', () => logProbCases(ON_GPU, OTHERS, 1e-4));
