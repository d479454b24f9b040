// How many steps of the schedule each hop may be ahead of the next, with the buffers that it has.

import type { Plan } from './plan.js';

/** One stage waits for room in the other's channel, and the pass takes from the last. */
export function stepsAhead(plan: Pick<Plan, 'layers' | 'hostBuffers' | 'deviceBuffers'>): {
  readonly hostSteps: number;
  readonly deviceSteps: number;
} {
  const { length } = plan.layers;
  const passing = plan.layers.filter(({ tier }) => tier !== 'gpu').length;
  const gathered = plan.layers.filter(({ inShards }) => inShards).length;
  return {
    hostSteps: stepsOf(length, passing, plan.hostBuffers.count),
    deviceSteps: stepsOf(length, passing + gathered, plan.deviceBuffers.count),
  };
}

/** So many that all buffers are in use: layers at rest on devices lie between those that pass by, and need none. */
function stepsOf(layers: number, passing: number, buffers: number): number {
  if (passing === 0 || buffers === 0) return 2;
  return Math.max(buffers, Math.min(layers, Math.ceil((buffers * layers) / passing)));
}
