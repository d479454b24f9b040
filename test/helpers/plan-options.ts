// What tests of plans share: options with room for everything, and what a plan takes of DRAM.

import type { Offload, PlanOptions } from '../../offload/plan/input.js';
import type { Plan } from '../../offload/plan/plan.js';

export const PLENTY = 2 ** 40;

export function optionsFor(offload: Offload, more: Partial<PlanOptions> = {}): PlanOptions {
  return {
    offload,
    dramBudgetBytes: PLENTY,
    dramBudgetName: '--dram_memory',
    deviceCount: 1,
    computesInPlace: true,
    ...more,
  };
}

export function dramBytes(plan: Plan): number {
  return plan.terms.reduce((sum, { tier, bytes }) => sum + (tier === 'dram' ? bytes : 0), 0);
}
