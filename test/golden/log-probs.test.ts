// Log-probabilities of chosen tokens on the CPU, and on several devices with memory of their own.

import { describe } from 'vitest';
import { logProbCases } from './log-prob-cases.js';
import { ALL_DRAM, ALL_NVME, type Placement } from './run-model.js';

const virtual = (virtualDevices: number, plan: Placement['plan']): Placement => ({
  ...ALL_NVME,
  cpu: { virtualDevices },
  plan: { deviceWindowLayers: 2, ...plan },
});

const OTHERS: readonly Placement[] = [
  ALL_DRAM,
  { ...ALL_NVME, plan: { microBatchTokens: 1 } },
  { ...ALL_NVME, plan: { microBatchTokens: 7, hostWindowLayers: 1 } },
  { ...ALL_NVME, plan: { microBatchSequences: 2, passTokens: 16 } },
  { ...ALL_NVME, cpu: { threads: 1 } },
  virtual(1, { kvOffload: true }),
  virtual(2, { microBatchTokens: 7 }),
];

describe('in place', () => logProbCases(ALL_NVME, OTHERS, 1e-5));
describe('on devices', () => logProbCases(virtual(2, {}), [], 1e-5));
